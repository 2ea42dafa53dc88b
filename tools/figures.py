"""Make the stored figures of notebooks small: `python tools/figures.py [NOTEBOOK ...]`, all of nbs/ by default

A figure becomes a PNG of at most 256 colours, and at most 1,200 pixels wide, if that loses nothing that an eye sees:
its mean and its largest local error are measured, and a figure that would change visibly keeps its colours. What is
small already stays as it is, so that a second call changes nothing."""
import base64, io, json, sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
WIDEST = 1200 # pixels
MEAN_ERROR = 2. # of 255, mean over the picture
LOCAL_ERROR = 12. # of 255, largest mean of 5 x 5 pixels, in which dithering and lines blur to what an eye sees


def opaque(image):
    "The picture on white, as a page shows it"
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')


def errors(a, b):
    "(mean, largest local) difference of two pictures of one size"
    mean = np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
    blurred = [np.asarray(p.filter(ImageFilter.BoxBlur(2)), float) for p in (a, b)]
    return mean, np.abs(blurred[0] - blurred[1]).max()


def encode(image):
    "PNG bytes, as small as Pillow makes them"
    out = io.BytesIO()
    image.save(out, 'PNG', optimize=True)
    return out.getvalue()


def palettes(image):
    "The picture in fewer colours, the plainest first"
    colors = image.getcolors(256)
    if colors: return [image.quantize(len(colors), dither=Image.Dither.NONE)]
    return [image.quantize(n, method=Image.Quantize.MEDIANCUT, dither=dither)
            for n in (128, 256) for dither in (Image.Dither.NONE, Image.Dither.FLOYDSTEINBERG)]


def small_png(data):
    "The same picture in fewer bytes, or the data as they are"
    image = Image.open(io.BytesIO(data))
    if image.mode == 'P' and image.width <= WIDEST: return data
    picture = opaque(image)
    if picture.width > WIDEST:
        height = round(picture.height*WIDEST/picture.width)
        picture = picture.resize((WIDEST, height), Image.Resampling.LANCZOS)
    best = encode(picture)
    for reduced in palettes(picture):
        mean, local = errors(picture, reduced.convert('RGB'))
        candidate = encode(reduced)
        if mean <= MEAN_ERROR and local <= LOCAL_ERROR and len(candidate) < len(best):
            best = candidate
            break
    return best if len(best) < len(data) else data


def shrink(path):
    "Bytes of a notebook before and after its figures are made small"
    text = path.read_text(encoding='utf-8')
    nb = json.loads(text)
    for cell in nb['cells']:
        for out in cell.get('outputs', []):
            data = out.get('data', {})
            if 'image/png' not in data: continue
            stored = ''.join(data['image/png'])
            small = small_png(base64.b64decode(stored))
            if len(small) < len(base64.b64decode(stored)):
                data['image/png'] = base64.b64encode(small).decode()
    new = json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'
    if len(new) < len(text): path.write_text(new, encoding='utf-8')
    return len(text), min(len(text), len(new))


if __name__ == '__main__':
    paths = [Path(p) for p in sys.argv[1:]] or sorted((ROOT/'nbs').glob('*.ipynb'))
    for path in paths:
        before, after = shrink(path)
        print(f'{path.stem:24} {before/1024:7.0f} kB {after/1024:7.0f} kB')
