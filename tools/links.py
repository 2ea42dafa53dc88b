"""Make the links of the site's Markdown copies work: `python tools/links.py _docs`, after `nbdev-docs`

A page is stored as `cohort.html` and, for programs that read, as `cohort.html.md`. The copies link to notebooks
(`00_cohort.ipynb#cohort.y`), which are not on the site; here they link to the copy of that page."""
import re, sys
from pathlib import Path

from pages import page_name

LINK = re.compile(r'(?<=\]\()(?!\w+:)([\w./-]+)\.(?:ipynb|qmd|md)(#[^)\s]*)?(?=\))')


def relink(text, folder):
    "Links of a Markdown copy in this folder, to copies where there are any and else to pages"
    def to_page(link):
        page = page_name(link[1])
        name = f'{page}.md' if (folder/f'{page}.md').exists() else page
        return f'{name}{link[2] or ""}' if (folder/name).exists() else link[0]
    return LINK.sub(to_page, text)


if __name__ == '__main__':
    for path in Path(sys.argv[1]).rglob('*.md'):
        path.write_text(relink(path.read_text(encoding='utf-8'), path.parent), encoding='utf-8')
