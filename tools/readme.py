"""Write README.md from nbs/index.ipynb: `python tools/readme.py`

It does what `nbdev-readme` does, without Quarto. Markdown stands as it is, code in fences with its stored outputs
below, pictures go to nbs/index_files/. Links become relative to the top folder."""
import os, re
from base64 import b64decode
from pathlib import Path

from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, filter_stream_, hide_, hide_line, rm_export, strip_ansi

ROOT = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook, not this file. -->'
FENCE = re.compile(r'(^```.*?^```)', flags=re.M | re.S)
RELATIVE_LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)\s]+)')


def relink(
    text:str, # Markdown
    folder:Path # Folder that its links start from
)->str: # The same, with links that start from the top folder
    "Links as seen from README.md; code is left alone"
    def up(link): return Path(os.path.relpath(folder/link[0], ROOT)).as_posix()
    return ''.join(p if FENCE.match(p) else RELATIVE_LINK.sub(up, p) for p in FENCE.split(text))


def fence(text, language): return f'```{language}\n{text.strip()}\n```'


def show_html(html):
    "HTML that GitHub shows as a table: no style sheet, and no empty line, which would end the block"
    html = re.sub(r'<style.*?</style>', '', html, flags=re.S)
    return '\n'.join(line for line in html.splitlines() if line.strip())


def show_output(
    out:dict, # A stored output
    picture:str, # Where its picture would go
    pictures:dict, # Pictures so far, path to bytes; gains this one
    words:dict # Directives of its cell, of which fig-alt and fig-cap stand with the picture
)->str: # Markdown
    "An output in the richest form that markdown can show"
    data = out.get('data', {})
    if 'image/png' in data:
        pictures[picture] = b64decode(data['image/png'])
        alt, caption = (words.get(f'fig-{key}', '').strip('"') for key in ('alt', 'cap'))
        return f'![{alt}]({picture})' + (f'\n\n*{caption}*' if caption else '')
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    if 'text/html' in data: return show_html(''.join(data['text/html']))
    return fence(''.join(data.get('text/plain', out.get('text', ''))), 'text')


def render(
    path:Path=ROOT/'nbs/index.ipynb' # Notebook
)->tuple: # (text of README.md, {path: bytes} of its pictures)
    "README.md as the notebook says it"
    processor = NBProcessor(path, procs=[strip_ansi, hide_line, filter_stream_, rm_export, clean_magics, hide_])
    processor.process()
    parts, pictures = [], {}
    for cell in processor.nb.cells:
        shown = {k for k in ('echo', 'output', 'include') if cell.directives_.get(k) != 'false'}
        if 'include' not in shown: continue
        if cell.cell_type == 'markdown': parts.append(relink(cell.source, path.parent))
        elif cell.cell_type == 'code':
            if 'echo' in shown: parts.append(fence(cell.source, 'python'))
            if 'output' in shown:
                names = [f'nbs/{path.stem}_files/{cell.id}-{i}.png' for i in range(len(cell.outputs))]
                words = cell.directives_
                parts += [show_output(o, name, pictures, words) for o, name in zip(cell.outputs, names)]
    title, *rest = (part.strip() for part in parts)
    return '\n\n'.join([title, NOTE, *filter(None, rest)]) + '\n', pictures


if __name__ == '__main__':
    text, pictures = render()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(data)
