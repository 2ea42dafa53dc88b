"mmpkd.report: its numbers computed again from the units, its page read by a browser without a network, and its words"
import base64, html, io, json, re, shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np, pandas as pd, pytest
from conftest import altered
from PIL import Image
from sklearn.metrics import roc_auc_score

from mmpkd import report
from mmpkd.attention import attention_maps
from mmpkd.cohort import Cohort
from mmpkd.ensemble import ensemble_intervals, ensemble_table
from mmpkd.results import Experiment
from mmpkd.settings import make_config
from mmpkd.experiment import run_experiment
from mmpkd.images import cache_pixels
from mmpkd.convention import CONVENTIONS, Convention
from mmpkd.scoring import score_maps
from mmpkd.reference_maps import CEILING, REFERENCE_MAPS
from mmpkd.report import (METRICS, MORE_METRICS, _peaks_in_nothing, _without_folders, caveats, choice_words, data_table,
                          figure1, figure2, gradient_words, joined_note, joined_table, paper_words, ranked_images,
                          report_html, soft_label_table, table1, table_note, to_markdown, under_gradient, write_joined,
                          write_report)
from mmpkd.signs import failure_signs
from mmpkd.soft_labels import calibration, label_distance
from mmpkd.statistics import TITLES, verdict
from mmpkd.student import Student
from mmpkd.studies import run_transfer
from mmpkd.teachers import macro_auroc

matplotlib.use('Agg')


def by_hand(run, phantom, arm, metric):
    "One value per seed, from the files of the units alone"
    test, out = phantom.split('test').items.set_index('image_id'), []
    for seed in range(run.seeds):
        unit = run.folder/'units'/arm/f'seed-{seed}'
        p, s = pd.read_parquet(unit/'predictions.parquet').loc[test.index], pd.read_parquet(unit/'scores.parquet')
        if metric == 'auroc':
            out.append(np.mean([roc_auc_score(test[c], p[c]) for c in phantom.labels if test[c].nunique() == 2]))
        elif metric == 'no_box': out.append((s.n_boxes == 0).mean())
        elif metric == 'boxes': out.append(s.n_boxes.mean())
        elif metric == 'fpr_all': out.append(np.where(s.n_boxes == 0, 1, s.fpr).mean())
        elif metric == 'pooled_auroc': out.append(s.attrs['pooled_auroc'])
        else: out.append(s[metric].mean())
    return np.array(out)


class Reader(HTMLParser):
    "What a browser would fetch or run, and the text of all tables"
    def __init__(self): super().__init__(); self.tags, self.links, self.tables, self.cell = [], [], [], False
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'action', 'data') or k.startswith('on')]
        if tag == 'table': self.tables.append([])
        if tag == 'tr': self.tables[-1].append([])
        if tag in ('td', 'th'): self.tables[-1][-1].append('')
        self.cell = tag in ('td', 'th')
    def handle_endtag(self, tag): self.cell = False
    def handle_data(self, data):
        if self.cell: self.tables[-1][-1][-1] += data

def read(text): reader = Reader(); reader.feed(text); return reader


# Tables

def test_numbers_are_those_of_the_units(tiny_run, phantom):
    t = pd.read_csv(tiny_run.folder/'table1.csv').set_index(['arm', 'metric'])
    printed = table1(tiny_run).join(table1(tiny_run, MORE_METRICS))
    assert set(t.index) == {(a, m) for a in ('baseline', 'out-of-fold') for m in (*METRICS, *MORE_METRICS)}
    for (arm, metric), row in t.iterrows():
        v = by_hand(tiny_run, phantom, arm, metric)
        assert (row['mean'], row.sd, row.n) == pytest.approx((v.mean(), v.std(ddof=1), 2), rel=1e-9), (arm, metric)
        cell = printed.loc[{'baseline': 'Baseline'}.get(arm, f'MMPKD ({arm})'), TITLES[metric]]
        assert cell == f'{v.mean():.3f} ± {v.std(ddof=1):.3f}'

def test_chance_levels_stand_in_the_table(tiny_run):
    t, chance = table1(tiny_run), tiny_run.trivial().set_index('arm')
    known = [k for k in REFERENCE_MAPS if k != 'imagenet']                      # its students start from nothing
    arms = ['Baseline', 'MMPKD (out-of-fold)']
    assert t.index.tolist() == [*arms, *[f'Ensemble of 2: {a}' for a in arms], *[REFERENCE_MAPS[k] for k in known]]
    assert set(t.AUROC.iloc[4:]) == {'–'}
    for k in known:
        expected = [f'{chance.loc[k, m]:.3f}' for m in ('pixel_auroc', 'iou', 'fpr')]
        assert t.loc[REFERENCE_MAPS[k], ['Pixel AUROC', 'IoU', 'FPR']].tolist() == expected, k

def test_the_perfect_box_is_a_row_and_no_rival(tiny_run):
    "Nobody has to beat what was told where the lesion is"
    t, kept = table1(tiny_run), tiny_run.trivial().set_index('arm')
    assert t.index[-1] == 'Perfect box'
    assert t.loc['Perfect box', 'IoU'] == '1.000'
    assert 'Perfect box is an upper bound' in table_note(tiny_run)
    assert kept.fpr.idxmin() == kept.iou.idxmax() == 'perfect'              # it would be named, were it a rival
    assert 'Perfect box' not in ' '.join(caveats(tiny_run)) and 'reference map' in ' '.join(caveats(tiny_run))
    lines = {line.get_ydata()[0] for ax in figure2(tiny_run).axes for line in ax.lines if line.get_linestyle() == '--'}
    assert kept.iou.drop('perfect').max() in lines and 1. not in lines

def older(run, folder):
    "The folder of an older version: no perfect box, and nothing that counts boxes"
    out = shutil.copytree(run.folder, folder)
    for f in [*out.rglob('scores.parquet'), out/'trivial.parquet']:
        t = pd.read_parquet(f)
        kept = t[t.localizer != 'perfect'] if 'localizer' in t else t
        kept = kept.drop(columns='n_boxes')
        kept.attrs = t.attrs
        kept.to_parquet(f)
    return Experiment(out)

def test_a_folder_of_an_older_version_is_still_read(tiny_run, phantom, tmp_path):
    run = older(tiny_run, tmp_path/'old')
    new, old = table1(tiny_run), table1(run)
    assert list(old) == [c for c in new if c not in ('Boxes', 'No box', 'FPR, no box as 1')]
    assert not set(CEILING.values()) & set(old.index)
    pd.testing.assert_frame_equal(old, new.loc[old.index, list(old)])
    assert 'Perfect box' not in table_note(run) and 'no box in' not in ' '.join(run.verdicts().values())
    assert write_report(run, phantom).is_file()

def test_the_note_says_what_the_cut_does(tiny_run):
    assert "Maps are cut halfway between the map's minimum and maximum inside the image." in table_note(tiny_run)
    assert 'of the maximum' not in table_note(tiny_run)

def test_boxes_are_drawn_as_they_were_counted(tiny_run, phantom):
    "Around the heat that was scored"
    run = Experiment(tiny_run.folder)
    shown = ranked_images(run)
    axes = figure1(run, phantom).axes
    for k, row in zip(shown, np.reshape(axes, (len(shown), -1))):
        for arm, ax in zip(run.arms, row[1:]):
            n = run.scores().query('seed == 0 and arm == @arm and image_id == @k').n_boxes.item()
            assert [p.get_edgecolor()[:3] for p in ax.patches].count((0, 1, 0)) == n

def test_written_tables_are_the_table(tiny_run):
    t = table1(tiny_run)
    assert (tiny_run.folder/'table1.md').read_text() == to_markdown(t) + '\n' + table_note(tiny_run) + '\n'
    assert read((tiny_run.folder/'table1.html').read_text()).tables == [[['Method', *t],
                                                                         *t.reset_index().to_numpy().tolist()]]
    lines = to_markdown(t).splitlines()
    assert len(lines) == 2 + len(t) and len({line.count('|') for line in lines}) == 1

class Invented(Experiment):
    """A run of which only the numbers exist; each arm is better than the one before by `shift` standard deviations.
    All that is derived from them is as in any other run"""
    folder, localizes, one_teacher = Path('invented'), True, ()
    def __init__(self, shift, seeds=8, arms=('baseline', 'out-of-fold')):
        self.shift, self.seeds, self.arms, self.about = shift, seeds, list(arms), dict(cohort='mine')
        self.teacher_seeds = list(range(seeds))
        self.config = dict(teacher='bow', convention=Convention().to_dict())
    audit = None
    def labels(self, split): return pd.DataFrame(0, range(100), ['a'])
    def peaks(self):
        return pd.DataFrame(dict(share=[.2, .9], uniform=.2), ['baseline', 'out-of-fold'])[:0 if self.shift else 2]
    def _rows(self, arm, k, rng):
        noise = lambda: .01*(rng.standard_normal(self.seeds) + k*self.shift)
        t = pd.DataFrame({m: .5 + noise() for m in ('auroc', 'pixel_auroc', 'iou')})
        return t.assign(fpr=.5 - noise(), no_box=0., images=10, arm=arm, seed=range(self.seeds))
    def per_seed(self):
        return pd.concat([self._rows(a, i, np.random.default_rng(0)) for i, a in enumerate(self.arms)],
                         ignore_index=True)
    def trivial(self):
        return pd.DataFrame(dict(arm=['noise', 'centre'], pixel_auroc=[.4, .52], iou=[.1, .2], fpr=[.9, .8], no_box=0.,
                                 images=10))

@pytest.mark.parametrize('shift,stars', [(9, True), (0, False), (-9, False)])
def test_stars_are_for_improvements(shift, stars): # in FPR too, where lower is better
    t = table1(Invented(shift))
    assert t.loc['MMPKD (out-of-fold)', ['Pixel AUROC', 'IoU', 'FPR']].str.endswith('**').tolist() == [stars]*3
    assert not t.drop(index='MMPKD (out-of-fold)').map(lambda v: '*' in v).to_numpy().any()

def test_daggers_are_for_the_contrary():
    t = table1(Invented(-9))
    assert t.loc['MMPKD (out-of-fold)', ['Pixel AUROC', 'IoU', 'FPR']].str.endswith('††').all()
    assert not t.drop(index='MMPKD (out-of-fold)').map(lambda v: '†' in v).to_numpy().any()

def test_controls_have_stars_of_their_own():
    "A control is no second test of the same question: its stars stand beside those of the arm"
    run = Invented(9, arms=('baseline', 'out-of-fold', 'shuffled'))
    t = table1(run)
    assert run.controls == ['shuffled']
    assert t.loc[['MMPKD (out-of-fold)', 'Control: shuffled within class'], 'IoU'].str.endswith('**').all()
    assert 'improves, but so do shuffled soft labels' in verdict(run.comparison())['out-of-fold']

def test_stars_need_enough_seeds():
    assert not table1(Invented(9, seeds=3)).map(lambda v: '*' in v or '†' in v).to_numpy().any()

def test_what_is_only_better_has_one_star_as_in_the_paper():
    "If it is asked for, or the preset is that of the paper; significance has two, and what is worse has none"
    few, arm = Invented(9, seeds=3), 'MMPKD (out-of-fold)'
    assert table1(few, better=True).loc[arm, ['Pixel AUROC', 'IoU', 'FPR']].str.fullmatch(r'[^*]*[^*]\*').all()
    assert not table1(few).map(lambda v: '*' in v).to_numpy().any()
    assert table1(Invented(9), better=True).loc[arm, 'IoU'].endswith('**')
    assert not table1(Invented(-9), better=True).map(lambda v: '*' in v).to_numpy().any()
    few.config['preset'] = 'paper'
    assert table1(few).equals(table1(few, better=True))

# Tables of several runs

@pytest.fixture
def twin(tiny_run, tmp_path):
    "A copy of the run under the name of another data set, without what `change` takes away"
    def made(name='other data', convention=None):
        folder = shutil.copytree(tiny_run.folder,
                                 tmp_path/(name.replace(' ', '-') + str(len(list(tmp_path.iterdir())))))
        for file, change in (('experiment', dict(cohort=name)),
                             ('config', dict(convention=tiny_run.config['convention'] | (convention or {})))):
            path = folder/f'{file}.json'
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        return Experiment(folder)
    return made

def test_runs_are_joined(tiny_run, twin, tmp_path):
    "Each part is the table of its run; the chance levels are there, and what each run is stands in the note"
    runs = [tiny_run, twin()]
    t, note = joined_table(runs), joined_note(runs)
    assert t.index.names == ['Dataset', 'Method']
    assert t.index.get_level_values(0).unique().tolist() == ['phantom', 'other data']
    for name, run in zip(('phantom', 'other data'), runs): pd.testing.assert_frame_equal(t.loc[name], table1(run))
    assert 'Centred Gaussian' in t.loc['other data'].index
    assert all(f'{n}: 2 seeds; ' in note for n in ('phantom', 'other data'))
    assert note.count('Maps are cut') == 1
    for suffix in ('.md', '.html', '.csv'): write_joined(runs, tmp_path/f't{suffix}')
    assert (tmp_path/'t.md').read_text() == to_markdown(t) + '\n' + note + '\n'
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path/'t.csv', index_col=[0, 1], dtype=str), t)
    page = read((tmp_path/'t.html').read_text())
    assert page.tables == [[['Dataset', 'Method', *t], *t.reset_index().to_numpy().tolist()]] and page.links == []

def test_runs_of_the_same_data_are_told_apart(tiny_run, twin):
    run = twin('phantom')
    assert joined_table([tiny_run, run]).index.get_level_values(0).unique().tolist() == [f'phantom ({r.folder.name})'
                                                                                         for r in (tiny_run, run)]

def test_runs_that_do_not_measure_alike_are_not_joined(tiny_run, twin):
    with pytest.raises(ValueError, match='under different conventions: layer is -1 in .* and 0 in'):
        joined_table([tiny_run, twin(convention=dict(layer=0))])
    with pytest.raises(ValueError, match='named twice'): joined_table([tiny_run, Experiment(tiny_run.folder)])

def test_a_score_that_a_run_has_not_is_a_dash(tiny_run, twin):
    # nothing is measured there, so nothing differs
    run = twin('blind', convention=dict(layer=0))
    for f in [*run.folder.rglob('scores.parquet'), run.folder/'trivial.parquet']: f.unlink()
    t = joined_table([tiny_run, Experiment(run.folder)])
    assert set(t.loc['blind', 'IoU']) == {'–'}
    assert t.loc[('blind', 'Baseline'), 'AUROC'] == t.loc[('phantom', 'Baseline'), 'AUROC']
    assert len(t.loc['blind']) == 4  # two arms, and an ensemble of each
    assert 'blind: 2 seeds; ' in joined_note([tiny_run, Experiment(run.folder)])
    assert 'nothing is localized' in joined_note([tiny_run, Experiment(run.folder)])


# Words

def test_the_preset_says_what_it_left_open(tiny_run):
    assert paper_words(tiny_run) == [] and '* better' not in table_note(tiny_run)
    run = Experiment(tiny_run.folder)
    run.config = run.config | dict(preset='paper')
    first, second = paper_words(run)
    assert '* better on average, without being significant; ** significantly better' in table_note(run)
    assert 'except for: arms, seeds, weights.' in first
    assert 'size 32, epochs 1, lr 0.001' in first
    assert 'λ = 0.5 and T = 1.0 were given' in second and 'mmpkd grid' in second and first in caveats(run)
    run.config = run.config | dict(grid=dict(folder='g', arm='in-sample lam=0.3 T=2', lam=.3, T=2., auroc=.6,
                                             baseline=.7, n=5, differs=['epochs']))
    assert len(paper_words(run)) == 1 and choice_words(tiny_run) == ''
    chosen = choice_words(run)
    assert "in the grid 'g', from the arm 'in-sample lam=0.3 T=2' (0.600 over 5 seeds; " in chosen
    assert '; the baseline has 0.700, which no cell reaches; ' in chosen
    assert '; in the grid other settings differ: epochs)' in chosen
    assert choice_words(run) in table_note(run)

def found(**signs): # What `failure_signs` gives: {sign: found or not}
    return pd.DataFrame([dict(sign=k, found=v, figures='', meaning=f'Meaning of {k}.', advice=f'Advice on {k}.')
                         for k, v in signs.items()],
                        columns=['sign', 'found', 'figures', 'meaning', 'advice'])

def test_caveats_say_what_is_so(monkeypatch):
    monkeypatch.setattr(report, 'failure_signs', lambda run: found())
    assert caveats(Invented(9)) == []
    [c, peaks] = caveats(Invented(0))
    assert 'in 90% (MMPKD (out-of-fold)) of the test images' in peaks
    assert 'Baseline' not in peaks
    assert "try artefacts='mask'" in peaks
    beaten = 'In Pixel AUROC, no student does better than the reference map "Centred Gaussian" (0.520 against 0.4'
    assert c.startswith(beaten)

def test_caveats_name_the_signs_that_were_found(tiny_run, monkeypatch):
    monkeypatch.setattr(report, 'failure_signs', lambda run: found(weak='yes', lam='no', maps='unknown', place='yes'))
    said = caveats(tiny_run)
    assert 'Meaning of weak. Advice on weak.' in said and 'Meaning of place. Advice on place.' in said
    assert not [c for c in said if 'lam' in c.split() or 'Meaning of lam' in c or 'Meaning of maps' in c]

def test_all_signs_stand_in_the_report(tiny_run):
    rows = [t for t in read((tiny_run.folder/'report.html').read_text()).tables if t[0][:2] == ['sign', 'found']]
    assert rows == [[list(failure_signs(tiny_run)), *failure_signs(tiny_run).to_numpy().tolist()]] and len(rows[0]) == 5

def test_a_useless_teacher_does_not_reach_the_report_without_a_word(tiny_run, phantom, tmp_path):
    run = Experiment(shutil.copytree(tiny_run.folder, tmp_path/'run'))
    for seed in range(2):
        file = run.folder/f'teachers/seed-{seed}/teacher.json'
        teacher = json.loads(file.read_text())
        file.write_text(json.dumps(teacher | dict(auroc=teacher['auroc'] | dict(valid=.1234))))
    page = html.unescape(write_report(run, phantom).read_text())
    said = 'The AUROC of the teacher on validation images, 0.123, is below that of the image-only baseline'
    assert said in page.partition('Failure signatures')[0]

def test_caveats_of_the_phantom(tiny_run):
    said = ' '.join(caveats(tiny_run))
    assert 'The phantom is synthetic' in said and 'In-sample' not in said

def test_the_note_counts(tiny_run, phantom):
    test = phantom.split('test')
    counts = f'over 2 seeds; {len(test)} test images, {test.rois.image_id.nunique()} of them with a region'
    assert counts in table_note(tiny_run)

def test_one_seed_of_three_arms(phantom, tiny, tmp_path):
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny), ('baseline', 'in-sample', 'out-of-fold'),
                         seeds=1, progress=False)
    text = write_report(run, phantom).read_text()
    assert '±' not in table1(run).to_string() and 'over 1 seed;' in text and text.count('class="verdict"') == 2
    assert any(c.startswith('In-sample soft labels') for c in caveats(run))
    assert 'nan' not in table1(run).to_string().lower()


@pytest.mark.parametrize('fields', [dict(classes='each'), dict(rule='tuned', layer=0)], ids=str)
def test_a_report_under_another_convention(phantom, tiny, tmp_path, fields):
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=fields), seeds=1, progress=False)
    page = write_report(run, phantom).read_text()
    assert is_picture((run.folder/'figure1.png').read_bytes())
    if 'rule' in fields: assert 'chosen on validation regions' in page and 'block 0' in page

def test_the_whole_report_without_tables_of_soft_labels(phantom, tiny, tmp_path):
    "Those of self-distillation differ by seed and are not kept"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny), ('baseline', 'self-distillation'), seeds=1,
                         progress=False)
    text = write_report(run, phantom, CONVENTIONS[:1]).read_text()
    assert '<h2>Weight randomisation</h2>' in text and '<h2>Calibration' not in text

def test_a_report_with_several_teachers(phantom, tiny, tmp_path, tiny_run):
    one = run_experiment(phantom, tmp_path/'run', make_config(**tiny, teacher_per_seed=False), seeds=2, progress=False)
    page, y = (tiny_run.folder/'report.html').read_text(), tiny_run.labels('train')
    assert 'Each seed has a teacher of its own.' in page and 'share one teacher' not in page
    said = write_report(one, phantom).read_text()
    assert 'All seeds share one teacher, so the findings hold for this teacher only.' in said
    gaps = [label_distance(y, tiny_run.soft_labels('out-of-fold', seed)) for seed in range(2)]
    assert soft_label_table(tiny_run).loc['out-of-fold', 'mean |s - y|'] == np.mean(gaps).round(3)

def test_in_sample_is_warned_of_under_any_name(phantom, tiny, tmp_path):
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny),
                         ('baseline', 'in-sample lam=0.3', 'out-of-fold T=2'), seeds=1, progress=False)
    [said] = [c for c in caveats(run) if c.startswith('In-sample soft labels')]
    assert f"they lie {run.over_teachers('in-sample lam=0.3', label_distance):.2f} from" in said
    assert f"against {run.over_teachers('out-of-fold T=2', label_distance):.2f} out-of-fold T=2." in said

def test_the_report_of_a_transfer_speaks_of_its_own_reference(phantom, tiny, tiny_run, tmp_path):
    run = run_transfer(tiny_run, phantom, tmp_path/'run', make_config(**tiny), seeds=1, progress=False)
    page = write_report(run, phantom).read_text()
    assert 'significantly better than From Baseline' in page and 'Differences from From Baseline' in page
    assert 'share one teacher' not in page
    assert 'teacher of its own' not in page
    assert 'Teacher and soft labels' not in page
    assert 'significantly better than the baseline' in table_note(tiny_run)
    assert 'Each seed has a teacher of its own' in table_note(tiny_run)

def test_soft_labels_are_described(tiny_run):
    t, y = soft_label_table(tiny_run), tiny_run.labels('train')
    each = [tiny_run.soft_labels('out-of-fold', seed) for seed in range(2)]             # of two teachers
    assert t.index.tolist() == ['out-of-fold']
    assert t.loc['out-of-fold', 'mean |s - y|'] == np.mean([label_distance(y, s) for s in each]).round(3)
    assert t.loc['out-of-fold', 'Brier'] == np.mean([calibration(y, s).Brier.mean() for s in each]).round(3)
    assert t.loc['out-of-fold', 'AUROC'] == np.mean([macro_auroc(y, s) for s in each]).round(3)
    page = report_html(tiny_run, {}).partition('Teacher and soft labels')[2]
    assert 'Per image' in page
    assert page.count('<th>out-of-fold</th>') == 2
    assert page.count('<th>AUROC</th>') == 2  # of the teacher, and of the labels


# Pictures

def is_picture(data):
    with Image.open(io.BytesIO(data)) as im:
        assert im.format == 'PNG' and min(im.size) > 200
        return np.asarray(im.convert('L')).std() > 5

@pytest.mark.parametrize('name', ['figure1.png', 'figure2.png'])
def test_figures_are_pictures(tiny_run, name): assert is_picture((tiny_run.folder/name).read_bytes())

def test_figure_1_shows_each_arm_of_the_ranked_images(tiny_run, phantom):
    fig = figure1(tiny_run, phantom)
    titles = [ax.get_title() for ax in fig.axes]
    ids = ranked_images(tiny_run)
    assert titles[::3] == [f'{k}\n{p}th percentile' for k, p in zip(ids, (10, 50, 90))] and len(titles) == 9
    s = tiny_run.scores().set_index(['arm', 'seed', 'image_id']).loc[('out-of-fold', 0, ids[0])]
    assert titles[2] == f'MMPKD (out-of-fold)\npixel AUROC {s.pixel_auroc:.2f}, IoU {s.iou:.2f}'
    matplotlib.pyplot.close(fig)

def test_no_figure_stays_open(tiny_run, phantom):
    before = matplotlib.pyplot.get_fignums()
    write_report(tiny_run, phantom)
    assert matplotlib.pyplot.get_fignums() == before

def scored(values): # the mean of each image over two arms of seed 0; seed 1 would turn them around
    rows = [dict(image_id=k, pixel_auroc=v + d if seed == 0 else -v, seed=seed) for k, v in values.items()
            for d in (-.1, .1) for seed in (0, 1, 1)]
    return SimpleNamespace(scores=lambda: pd.DataFrame(rows))

def test_images_are_ranked():
    run = scored(dict(e=.5, a=.1, c=.3, d=.4, b=.2))
    assert ranked_images(run, (0, 25, 50, 75, 100)) == list('abcde')
    assert ranked_images(scored(dict(z=.2, y=np.nan)), (10, 50, 90)) == ['z', 'z', 'z']


# The page

def test_the_page_stands_alone(tiny_run):
    text = (tiny_run.folder/'report.html').read_text()
    page = read(text)
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'a'} & set(page.tags) and page.tags.count('img') == 2
    assert 'http' not in text.replace('https://mmpkd', '') and 'url(' not in text and '@import' not in text
    for link in page.links:
        kind, _, data = link.partition(',')
        assert kind == 'data:image/png;base64' and is_picture(base64.b64decode(data, validate=True))

def test_the_page_holds_everything(tiny_run):
    text = (tiny_run.folder/'report.html').read_text()
    first, gradient, second, signs, intervals, tests, ensembles, against, *_ = tables = read(text).tables
    assert first[1:] == table1(tiny_run).reset_index().to_numpy().tolist()
    assert second[1:] == table1(tiny_run, MORE_METRICS).reset_index().to_numpy().tolist()
    assert len(intervals) == 1 + len(tiny_run.intervals()) == 5 and {'lo', 'hi', 'difference'} <= set(intervals[0])
    assert len(tests) == 1 + len(tiny_run.comparison()) and len(tables) == 11
    assert len(ensembles) - 2 == len(ensemble_table(tiny_run))
    assert len(against) == 1 + len(ensemble_intervals(tiny_run)) == 4
    assert [row[:2] for row in tables[-1][1:]] == [[f['severity'], f['name']] for f in tiny_run.audit['findings']]
    unescaped = html.unescape(text)
    for said in [*tiny_run.verdicts().values(), *caveats(tiny_run), table_note(tiny_run)]: assert said in unescaped
    again = json.loads(re.search('<pre>(.*)</pre>', unescaped, re.S)[1])
    assert again['config'] == tiny_run.config
    assert again['environments'] == tiny_run.environments
    assert again['about']['seeds'] == 2

def test_the_page_does_not_say_where_it_was_made(tiny_run):
    run = Experiment(tiny_run.folder)
    run.config = run.config | dict(weights='/home/someone/private/vit.pth', weights_sha256='0123')
    text = report_html(run, {})
    assert str(run.folder.parent.parent) not in text and '/home/someone' not in text and 'vit.pth' in text

def test_only_the_last_part_of_a_path_is_shown():
    args = dict(model='/disk/bert', n_estimators=100)
    shown = _without_folders(dict(weights='/disk/vit.pth', start='/disk/run', teacher_args=args))
    assert shown == dict(weights='vit.pth', start='run', teacher_args=dict(model='bert', n_estimators=100))

def test_repairs_stand_in_a_table():
    about = dict(repairs={'box clipped to the image': 3}, unreadable=[dict(image_id='im7', reason='the file is empty')])
    [_, table] = data_table(SimpleNamespace(about=about))
    assert read(table).tables[0][2:] == [['box clipped to the image', '3'], ['image left out, not decoded', '1']]

def test_names_cannot_become_markup(tiny_run):
    run = Experiment(tiny_run.folder)
    run.about = run.about | dict(cohort='<script>alert(1)</script>')
    text = report_html(run, {})
    assert 'script' not in read(text).tags and '&lt;script&gt;' in text

def test_a_moved_folder_gives_the_same_report(tiny_run, phantom, tmp_path):
    names = ('table1.md', 'table1.csv', 'table1.html', 'report.html')
    before = {n: (tiny_run.folder/n).read_text() for n in names}
    moved = shutil.copytree(tiny_run.folder, tmp_path/'moved')
    for n in names: (moved/n).unlink()
    write_report(Experiment(moved), phantom)
    def words(text): return re.sub('data:image/png;base64[^"]*', '', text)
    assert {n: words((moved/n).read_text()) for n in names} == {n: words(v) for n, v in before.items()}


# Data that lack something

def test_a_report_without_regions(phantom, tiny, tmp_path):
    "Prediction only, also where everything is asked for; what is left out is said"
    bare = altered(phantom, rois=phantom.rois[:0])
    run = run_experiment(bare, tmp_path/'run', make_config(**tiny), seeds=2, progress=False)
    text = html.unescape(write_report(run, bare, CONVENTIONS[:2]).read_text(encoding='utf-8'))
    text = re.sub('src="data:[^"]*"', '', text)                                # figures are letters, too
    for word in ('IoU', 'Pixel AUROC', 'FPR', 'reference map,', 'Other conventions', 'Table 2', 'Figure 1',
                 'Power'):
        assert word not in text, word
    for words in ('No test image has a region of interest', 'none of them with a region', 'Weight randomisation',
                  'Agreement between seeds', 'Calibration', 'no regions'):
        assert words in text, words
    arms = ['Baseline', 'MMPKD (out-of-fold)']
    assert list(table1(run)) == ['AUROC']
    assert table1(run).index.tolist() == [*arms, *[f'Ensemble of 2: {a}' for a in arms]]
    assert not (run.folder/'figure1.png').exists() and is_picture((run.folder/'figure2.png').read_bytes())
    assert 'nan' not in read(text).tables[0].__repr__().lower()
    assert set(pd.read_csv(run.folder/'table1.csv').metric) == {'auroc'}

def test_a_report_without_a_teacher(phantom, tiny, tmp_path):
    nothing = altered(phantom, text=None, tabular=())
    run = run_experiment(nothing, tmp_path/'run', make_config(**tiny | dict(teacher='none')),
                         ('baseline', 'label-smoothing', 'self-distillation'), seeds=1, progress=False)
    text = html.unescape(write_report(run, nothing, CONVENTIONS[:1]).read_text(encoding='utf-8'))
    assert 'Does privileged information help' not in text
    assert 'Nothing is privileged in these data' in text
    assert 'There is no teacher.' in text
    assert 'ε = 0.1' in text
    assert '<h2>Soft labels</h2>' in text and 'teacher asked about' not in text and 'IoU' in text

def test_a_report_says_that_the_audit_was_ignored(phantom, tiny, tmp_path):
    items = phantom.items.copy()
    items.loc[items.split == 'test', phantom.labels[0]] = 0
    bad = altered(phantom, items, phantom.rois[phantom.rois.label != phantom.labels[0]])
    run = run_experiment(bad, tmp_path/'run', make_config(**tiny), seeds=1, progress=False, ignore_audit=True)
    text = html.unescape(write_report(run, bad).read_text(encoding='utf-8'))
    assert 'The audit of the data found errors, and the run went on all the same: one value in test (1).' in text
    assert not run.audit['ok']

def test_a_folder_of_an_older_version(tiny_run, phantom, tmp_path):
    "Without an audit, and without peaks in its units"
    folder = shutil.copytree(tiny_run.folder, tmp_path/'old')
    (folder/'audit.json').unlink()
    for f in folder.glob('units/*/*/unit.json'):
        f.write_text(json.dumps({k: v for k, v in json.loads(f.read_text()).items() if k != 'peaks'}))
    text = write_report(Experiment(folder), phantom).read_text(encoding='utf-8')
    assert 'Audit of the data' not in text
    assert caveats(Experiment(folder)) == caveats(tiny_run)
    assert not len(Experiment(folder).peaks())


# Maps that peak where there is nothing to see

def peaks_of(share, uniform, n, artefacts='keep'):
    table = pd.DataFrame(dict(share=[share], uniform=[uniform]), ['baseline'])
    return SimpleNamespace(peaks=lambda: table, labels=lambda split: range(n),
                           config=dict(convention=dict(artefacts=artefacts)))

@pytest.mark.parametrize('share,uniform,n,said',
                         [(1., .25, 100, True), (.25, .25, 100, False), (.37, .25, 100, False), (.39, .25, 100, True),
                          (.39, .25, 10, False), (0., .25, 100, False), (.05, 0., 20, True), (1., 1., 20, False)])
def test_only_what_is_clearly_above_chance_is_named(share, uniform, n, said):
    assert bool(_peaks_in_nothing(peaks_of(share, uniform, n))) == said

def test_the_advice_is_not_what_was_done():
    assert "try artefacts='mask'" in _peaks_in_nothing(peaks_of(1, .1, 50))[0]
    assert 'try' not in _peaks_in_nothing(peaks_of(1, .1, 50, 'mask'))[0]


# Names with every character

NASTY = 'a|b <b>x</b> $\\alpha_$ [red] 肿瘤'

def test_names_in_markdown():
    [head, rule, line] = to_markdown(pd.DataFrame({NASTY: ['1|2\n3']}, pd.Index([NASTY], name='Method'))).splitlines()
    cells = re.split(r'(?<!\\)\|', line)
    assert len(cells) == len(re.split(r'(?<!\\)\|', head)) == len(rule.split('|')) == 4
    assert '<b>' not in head + line
    assert '肿瘤' in line

def test_a_run_with_such_names(phantom, tiny, tmp_path):
    "Classes, columns, images and the cohort itself: the page shows them as they are, and no figure has a formula"
    names = {c: f'{c} {NASTY}' for c in phantom.labels}
    ids = {k: f'{k} $x_$ <i>' for k in phantom.items.image_id}
    rois = phantom.rois.assign(image_id=phantom.rois.image_id.map(ids), label=phantom.rois.label.map(names))
    odd = Cohort(phantom.items.rename(columns=names).assign(image_id=phantom.items.image_id.map(ids)),
                 [*names.values()], rois, phantom.text, root=phantom.root, name=NASTY)
    run = run_experiment(odd, tmp_path/'run', make_config(**tiny), seeds=1, progress=False)
    page = write_report(run, odd, CONVENTIONS[:1]).read_text(encoding='utf-8')
    assert not {'b', 'i', 'red'} & set(read(page).tags)
    assert html.escape(NASTY) in page
    assert html.escape(names[phantom.labels[0]]) in page
    matplotlib.pyplot.close('all')


# The same under gradient-weighted attention

def test_gradient_scores_are_those_of_the_maps(tiny_run, phantom):
    pixels, again = cache_pixels(phantom, tiny_run.config['size'], tiny_run.folder/'pixels'), under_gradient(tiny_run)
    unit = tiny_run.run_folder('out-of-fold', 1)
    maps = attention_maps(Student.load(unit), pixels, phantom.split('test').items.image_id, method='gradient')
    by_hand = score_maps(maps.maps, maps.image_ids, maps.geometries, phantom.split('test'),
                         Convention(method='gradient'))
    mine = again.per_seed().set_index(['arm', 'seed']).loc[('out-of-fold', 1)]
    for m in ('pixel_auroc', 'iou', 'fpr'): assert mine[m] == pytest.approx(by_hand[m].mean(), abs=1e-4), m
    assert set(again.trivial().arm) == set(tiny_run.trivial().arm) and 'auroc' not in again.per_seed()

def test_the_report_says_how_the_comparison_comes_out_under_gradients(tiny_run):
    text = html.unescape((tiny_run.folder/'report.html').read_text())
    assert '<h2>Table 1 under gradient-weighted attention</h2>' in text
    [words] = gradient_words(tiny_run)
    assert words.startswith('Under gradient-weighted attention: out-of-fold (2 runs against 2') and words in text
    assert read(text).tables[1][1:] == table1(under_gradient(tiny_run),
                                              ('pixel_auroc', 'iou', 'fpr')).reset_index().to_numpy().tolist()

def test_gradient_maps_are_scored_once(tiny_run, phantom, monkeypatch):
    monkeypatch.setattr(report, 'convention_scores', lambda *_: pytest.fail('scored again'))
    write_report(Experiment(tiny_run.folder), phantom)

@pytest.fixture
def without(tiny_run, tmp_path):
    "A run whose report has not been written"
    run = Experiment(shutil.copytree(tiny_run.folder, tmp_path/'without'))
    shutil.rmtree(run.folder/'conventions')
    return run

def test_a_report_without_gradient_maps(without, phantom):
    text = write_report(without, phantom, gradient=False).read_text()
    assert 'gradient-weighted' not in text
    assert gradient_words(without) == []
    assert not (without.folder/'conventions').exists()

def test_a_model_without_gradient_maps(without, phantom, monkeypatch):
    def refuse(*args, **kwargs): raise AttributeError('no attn_drop')
    monkeypatch.setattr(report, 'check_maps', refuse)
    text = html.unescape(write_report(without, phantom).read_text())
    assert 'Gradient-weighted attention is not available for this model: AttributeError: no attn_drop' in text
    assert '<h2>Table 1 under' not in text and not (without.folder/'conventions').exists()

def test_gradient_maps_are_not_shown_twice(phantom, tiny, tmp_path):
    "Where they are what the run reads anyway"
    run = run_experiment(phantom, tmp_path/'run', make_config(**tiny, convention=dict(method='gradient')), seeds=1,
                         progress=False)
    text = write_report(run, phantom).read_text()
    assert 'Table 1 under' not in text and gradient_words(run) == [] and not (run.folder/'conventions').exists()

def test_half_of_the_scores_are_none(tiny_run, tmp_path):
    run = Experiment(shutil.copytree(tiny_run.folder, tmp_path/'run'))
    (run.folder/'conventions'/'baseline_seed-0.parquet').unlink()
    assert under_gradient(run) is None and gradient_words(run) == []

def test_scores_label_by_label_in_the_same_files_change_nothing(tiny_run, tmp_path):
    run = Experiment(shutil.copytree(tiny_run.folder, tmp_path/'run'))
    for f in (run.folder/'conventions').iterdir():
        t = pd.read_parquet(f)
        pd.concat([t, t.assign(key='each', label='Effusion')], ignore_index=True).to_parquet(f)
    pd.testing.assert_frame_equal(under_gradient(run).intervals(), under_gradient(tiny_run).intervals())
    assert gradient_words(run) == gradient_words(tiny_run)
