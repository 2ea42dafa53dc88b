"""Make the stored figures of notebooks small: `python tools/figures.py [NOTEBOOK ...]`, all of nbs/ by default

A figure becomes a PNG of at most 256 colours and 1,200 pixels (960 if it is large, 640 if it is very large, as pictures
full of noise are), if that loses nothing that an eye sees: mean and local errors are measured, and a figure that would
change visibly keeps its colours.
A small figure stays as it is, so that a second call changes nothing."""
import base64, io, json, sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {1200: 80_000, 960: 100_000, 640: float('inf')} # pixels: bytes above which the next width is tried
MEAN_ERROR = 2. # of 255, mean over the picture
LOCAL_ERROR = 10. # of 255, in means of 5 x 5 pixels (in which dithering blurs as it does to an eye), 99.9 % of them
WORST_ERROR = 40. # the same, all of them


def opaque(image):
    "The picture on white, as a page shows it"
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image).convert('RGB')


def looks_equal(a, b):
    "Are two pictures of one size the same to an eye?"
    mean = np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
    blurred = [np.asarray(p.filter(ImageFilter.BoxBlur(2)), float) for p in (a, b)]
    local = np.abs(blurred[0] - blurred[1])
    return mean <= MEAN_ERROR and np.percentile(local, 99.9) <= LOCAL_ERROR and local.max() <= WORST_ERROR


def encode(image):
    "PNG bytes, as small as Pillow makes them"
    out = io.BytesIO()
    image.save(out, 'PNG', optimize=True)
    return out.getvalue()


def palettes(image):
    "The picture in fewer colours, the plainest first"
    colors = image.getcolors(256)
    if colors: return [image.quantize(len(colors), dither=Image.Dither.NONE)]
    return [image.quantize(n, method=Image.Quantize.MEDIANCUT, kmeans=3, dither=dither)
            for n in (128, 256) for dither in (Image.Dither.NONE, Image.Dither.FLOYDSTEINBERG)]


def narrower(picture, width):
    "The picture, at most this wide"
    if picture.width <= width: return picture
    height = round(picture.height*width/picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def reduced(picture):
    "PNG bytes in as few colours as look equal"
    for candidate in palettes(picture):
        if looks_equal(picture, candidate.convert('RGB')): return encode(candidate)
    return encode(picture)


def small_png(data):
    "The same picture in fewer bytes, or the data as they are"
    image = Image.open(io.BytesIO(data))
    if image.mode == 'P' and image.width <= max(WIDTHS) and len(data) <= WIDTHS[960]: return data
    picture = opaque(image)
    for width, most in WIDTHS.items():
        best = reduced(narrower(picture, width))
        if len(best) <= most: break
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
