"""The layouts in which public sets are published, each in a small copy of its own making.

Between the comments `glue` and `end` stand the lines that a user writes before `from_table`; `LINES` counts them.
None is above four."""
import inspect
import json

import numpy as np, pandas as pd, pytest
from PIL import Image

from mmpkd.tables import BOX, read_coco, read_table
from mmpkd.cohort import Cohort
from mmpkd.image_files import mask_rois

LINES = dict(rsna=0, vindr=0, nih=0, chestx_det=2, coco=0, coco_in_two=1, mias=4, cub=4, busi=3)


def touch(folder, names):
    "Empty files, and the folders they are in"
    for n in names:
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        (folder/n).touch()

def said(cohort): return cohort.repair_counts().to_dict()

def boxes(cohort):
    return sorted((r.image_id, r.label, *map(float, (r.x0, r.y0, r.x1, r.y1))) for r in cohort.rois.itertuples())

def labels(cohort): return {i: r.tolist() for i, r in zip(cohort.items.image_id, cohort.y().to_numpy())}


# RSNA pneumonia: one row per box, four blanks where there is no pneumonia

def write_rsna(root):
    rows = [f'p{k:03},,,,,0'
            for k in range(20)] + [f'q{k:03},264.0,152.0,213.0,379.0,1\nq{k:03},562.0,152.0,256.0,453.0,1'
                                   for k in range(20)]
    (root/'stage_2_train_labels.csv').write_text('patientId,x,y,width,height,Target\n' + '\n'.join(rows) + '\n')
    touch(root, [f'images/{c}{k:03}.dcm' for c in 'pq' for k in range(20)])

def load_rsna(root):
    f = root/'stage_2_train_labels.csv'
    return Cohort.from_table(f, 'Target', f, image_id='patientId', patient_id='patientId', split=None,
                             image='images/{patientId}.dcm', root=root)

def test_rsna(tmp_path):
    write_rsna(tmp_path)
    c = load_rsna(tmp_path).check()
    assert len(c) == 40 and labels(c)['p003'] == [0] and labels(c)['q003'] == [1]
    assert boxes(c)[:2] == [('q000', 'Target', 264, 152, 477, 531), ('q000', 'Target', 562, 152, 818, 605)]
    assert len(c.rois) == 40
    assert said(c) == {'rows of one image merged': 20, 'box row without a box left out': 20}


# VinDr-CXR: one row per reader and finding; No finding has a row, too

def write_vindr(root):
    rows = [f'a{k:02},No finding,14,R{r},,,,' for k in range(20) for r in (9, 10, 11)]
    rows += [f'b{k:02},Cardiomegaly,3,R{r},{690 + r}.0,1375.0,1653.0,1831.0' for k in range(20) for r in (8, 9)]
    rows += [f'b{k:02},Aortic enlargement,0,R9,1052.0,715.0,1299.0,966.0' for k in range(20)]
    (root/'train.csv').write_text('image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n' + '\n'.join(rows))
    touch(root, [f'train/{c}{k:02}.dicom' for c in 'ab' for k in range(20)])

def load_vindr(root, **changes):
    f = root/'train.csv'
    return Cohort.from_table(f, 'class_name', f, patient_id=None, split=None, image='train/{image_id}.dicom', root=root,
                             label_sep='|', box_label='class_name', **changes)

def test_vindr(tmp_path):
    write_vindr(tmp_path)
    c = load_vindr(tmp_path).check()
    assert c.labels == ['Aortic enlargement', 'Cardiomegaly']
    assert labels(c)['a00'] == [0, 0]
    assert labels(c)['b00'] == [1, 1]
    assert len(c.rois) == 60 and ('b00', 'Cardiomegaly', 698, 1375, 1653, 1831) in boxes(c)
    assert said(c) == {'no patient column: each image is its own patient': 1, 'rows of one image merged': 40,
                       'box row without a box left out': 60}
    c = load_vindr(tmp_path, classes=['Cardiomegaly'])
    assert c.labels == ['Cardiomegaly'] and len(c.rois) == 40 and said(c)['box of a class not asked for left out'] == 20


# NIH ChestX-ray14: classes in one cell, a trailing comma in the header, and boxes under a header that falls into pieces

NIH = ('Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,'
       'OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n')

def write_nih(root):
    found = ['No Finding', 'Cardiomegaly', 'Cardiomegaly|Effusion', 'Infiltration|Pleural_Thickening']
    rows = [f'{k//2:08}_{k%2:03}.png,{found[k % 4]},{k % 2},{k//2},{58 + k%20},M,PA,2682,2749,0.143,0.143,'
            for k in range(80)]
    (root/'Data_Entry_2017.csv').write_text(NIH + '\n'.join(rows))
    rows = [f'{k//2:08}_{k%2:03}.png,{c},225.084745762712,547.019216763771,86.7796610169491,79.1864406779661,,,'
            for k in range(2, 80, 4) for c in ('Cardiomegaly', 'Mass')]
    (root/'BBox_List_2017.csv').write_text('Image Index,Finding Label,Bbox [x,y,w,h],,,\n' + '\n'.join(rows))
    touch(root, [f'images/{k//2:08}_{k%2:03}.png' for k in range(80)])

def load_nih(root):
    return Cohort.from_table(root/'Data_Entry_2017.csv', 'Finding Labels', root/'BBox_List_2017.csv',
                             image_id='Image Index', patient_id='Patient ID', split=None,
                             image='images/{Image Index}', root=root, tabular=['Patient Age', 'Patient Gender',
                                     'View Position'], label_sep='|', box_label='Finding Label')

def test_nih(tmp_path):
    write_nih(tmp_path)
    c = load_nih(tmp_path).check()
    assert c.labels == ['Cardiomegaly', 'Effusion', 'Infiltration', 'Pleural_Thickening']
    assert labels(c)['00000000_000.png'] == [0, 0, 0, 0]
    assert labels(c)['00000001_000.png'] == [1, 1, 0, 0]
    assert labels(c)['00000001_001.png'] == [0, 0, 1, 1]
    assert len(c.rois) == 20
    assert np.allclose(c.rois[BOX].iloc[0].astype(float), [225.084746, 547.019217, 311.864407, 626.205657])
    assert said(c) == {'box of a class not asked for left out': 20} and c.items.patient_id.nunique() == 40
    assert c.items['Patient Age'].dtype.kind == 'i'


# ChestX-Det: a list of records with lists in them

def write_chestx_det(root):
    d = [dict(file_name=f'{36000 + k}.png', syms=[] if k % 2 else ['Effusion', 'Nodule'], boxes=[] if k % 2
              else [[100, 400, 300, 700], [500, 200, 540, 250]],
              polygons=[]) for k in range(40)]
    (root/'ChestX_Det_train.json').write_text(json.dumps(d))
    touch(root, ['train_data/' + r['file_name'] for r in d])

def load_chestx_det(root):
    # glue
    t = read_table(root/'ChestX_Det_train.json')
    lesions = t.explode(['syms', 'boxes']).rename(columns=dict(boxes='bbox_xyxy'))
    # end
    return Cohort.from_table(t, 'syms', lesions, image_id='file_name', patient_id=None, split=None,
                             image='train_data/{file_name}', root=root, label_sep='|', box_label='syms')

def test_chestx_det(tmp_path):
    write_chestx_det(tmp_path)
    c = load_chestx_det(tmp_path).check()
    assert c.labels == ['Effusion', 'Nodule'] and labels(c)['36000.png'] == [1, 1] and labels(c)['36001.png'] == [0, 0]
    assert boxes(c)[:2] == [('36000.png', 'Effusion', 100, 400, 300, 700), ('36000.png', 'Nodule', 500, 200, 540, 250)]
    assert len(c.rois) == 40
    assert said(c) == {'no patient column: each image is its own patient': 1, 'box row without a box left out': 20}


# COCO: images, boxes and classes in one file

def write_coco(root):
    d = dict(images=[dict(id=100 + k, file_name=f'{k:012}.jpg', width=640, height=480) for k in range(40)],
             categories=[dict(id=1, name='mass'), dict(id=7, name='calcification')],
             annotations=[dict(id=k, image_id=100 + k, category_id=7 if k % 4 else 1, bbox=[10.5, 20, 30, 40.25],
                               area=1200, iscrowd=0) for k in range(0, 40, 2)])
    (root/'instances.json').write_text(json.dumps(d))
    touch(root, [f'train/{k:012}.jpg' for k in range(40)])

def load_coco(root):
    f = root/'instances.json'
    return Cohort.from_table(f, ['mass', 'calcification'], f, patient_id=None, split=None, image='train/{image}',
                             root=root)

def load_coco_in_two(root):
    # glue
    images, lesions = read_coco(root/'instances.json')
    # end
    return Cohort.from_table(images, ['mass', 'calcification'], lesions, patient_id=None, split=None,
                             image='train/{image_id}', root=root)

@pytest.mark.parametrize('load', [load_coco, load_coco_in_two])
def test_coco(tmp_path, load):
    write_coco(tmp_path)
    c = load(tmp_path).check()
    assert [labels(c)[f'{k:012}.jpg'] for k in range(3)] == [[1, 0], [0, 0], [0, 1]]
    assert boxes(c)[0] == ('000000000000.jpg', 'mass', 10.5, 20, 40.5, 60.25) and len(c.rois) == 20
    assert said(c) == {'no patient column: each image is its own patient': 1}


# mini-MIAS: a text file without names; circles, whose y is counted from below; a patient is two images in a row

def write_mias(root):
    rows = [f'mdb{k:03} G NORM' if k % 2 else f'mdb{k:03} D CIRC {"B" if k % 4 else "M"} 535 425 197'
            for k in range(1, 81)] + ['mdb080 D CIRC M 300 300 20', 'mdb059 D CIRC B']
    (root/'Info.txt').write_text('\n'.join(rows))
    touch(root, [f'mdb{k:03}.pgm' for k in range(1, 81)])

def load_mias(root):
    # glue
    t = pd.read_csv(root/'Info.txt', sep=' ', names=['image_id', 'tissue', 'finding', 'severity', 'x', 'y', 'r'])
    t = t.assign(y=1024 - t.y, malignant=(t.severity == 'M').groupby(t.image_id).transform('max').astype(int),
                 patient=(t.image_id.str[3:].astype(int) + 1)//2)
    lesions = t[t.severity == 'M'].assign(x0=t.x - t.r, y0=t.y - t.r, x1=t.x + t.r, y1=t.y + t.r)[['image_id', *BOX]]
    # end
    return Cohort.from_table(t, 'malignant', lesions, patient_id='patient', split=None, image='{image_id}.pgm',
                             root=root)

def test_mias(tmp_path):
    write_mias(tmp_path)
    c = load_mias(tmp_path).check()
    assert len(c) == 80
    assert c.items.patient_id.nunique() == 40
    assert labels(c)['mdb004'] == [1]
    assert labels(c)['mdb002'] == [0]
    assert ('mdb004', 'malignant', 338, 402, 732, 796) in boxes(c)
    assert ('mdb080', 'malignant', 280, 704, 320, 744) in boxes(c)
    assert said(c) == {'rows of one image merged': 2}


# CUB: four text files with a number per image

def write_cub(root):
    kinds = ['001.Black_footed_Albatross', '002.Laysan_Albatross', '003.Sooty_Albatross']
    files = [f'{kinds[k % 3]}/bird_{k:04}.jpg' for k in range(60)]
    for name, values in dict(images=files, image_class_labels=[k % 3 + 1 for k in range(60)],
                             train_test_split=[int(k < 45) for k in range(60)],
                             bounding_boxes=['60.0 27.0 325.0 304.0']*60).items():
        (root/f'{name}.txt').write_text('\n'.join(f'{k} {v}' for k, v in enumerate(values, 1)))
    touch(root, ['images/' + f for f in files])

def load_cub(root):
    # glue
    read = lambda name, *columns: pd.read_csv(root/f'{name}.txt', sep=' ', names=['image_id', *columns], index_col=0)
    t = read('images', 'image').join([read('image_class_labels', 'bird'), read('train_test_split', 'split'),
                                      read('bounding_boxes', *'xywh')]).reset_index()
    t['split'] = np.where(t.split == 0, 'test', np.where(t.image_id % 5 == 0, 'valid', 'train'))
    # end
    return Cohort.from_table(t, 'bird', t, patient_id=None, image='images/{image}', root=root, task='multiclass',
                             box_label='bird')

def test_cub(tmp_path):
    write_cub(tmp_path)
    c = load_cub(tmp_path).check()
    assert c.labels == ['1', '2', '3'] and labels(c)['2'] == [0, 1, 0] and c.counts().images.tolist() == [36, 9, 15]
    assert boxes(c)[0] == ('1', '1', 60, 27, 385, 331) and len(c.rois) == 60
    assert said(c) == {'no patient column: each image is its own patient': 1}


# BUSI: a folder per class, masks beside the images, several for some, black ones for normal breasts

def write_busi(root):
    for kind, n in (('benign', 12), ('malignant', 12), ('normal', 12)):
        (root/kind).mkdir(parents=True)
        for k in range(1, n + 1):
            image, masks = np.full((40, 60), 90, np.uint8), [(5 + k, 8), (30, 20)][:1 + (k == 3)]
            Image.fromarray(image).save(root/kind/f'{kind} ({k}).png')
            for j, (x, y) in enumerate(masks):
                mask = np.zeros((40, 60), np.uint8)
                if kind != 'normal': mask[y:y + 10, x:x + 12] = 255
                Image.fromarray(mask).save(root/kind/f'{kind} ({k})_mask{f"_{j}" if j else ""}.png')

def load_busi(root):
    # glue
    t = pd.DataFrame(dict(mask=[p.relative_to(root).as_posix() for p in sorted(root.glob('*/*_mask*.png'))]))
    t = t.assign(image_id=t['mask'].str.replace(r'_mask\w*', '', regex=True), label=t['mask'].str.split('/').str[0])
    lesions = mask_rois(t.assign(image=t.image_id), root)
    # end
    return Cohort.from_table(t, 'label', lesions, patient_id=None, split=None, image='{image_id}', root=root,
                             task='multiclass')

def test_busi(tmp_path):
    write_busi(tmp_path)
    c = load_busi(tmp_path).check()
    assert len(c) == 36 and c.labels == ['benign', 'malignant', 'normal'] and c.y().sum().tolist() == [12, 12, 12]
    assert labels(c)['normal/normal (1).png'] == [0, 0, 1]
    assert set(c.rois.label) == {'benign', 'malignant'}
    assert len(c.rois) == 26
    assert [b for b in boxes(c) if b[0] == 'benign/benign (3).png'] == [('benign/benign (3).png', 'benign', 8, 8, 20,
            18), ('benign/benign (3).png', 'benign', 30, 20, 42, 30)]
    assert said(c) == {'no patient column: each image is its own patient': 1, 'rows of one image merged': 3}


# How much a user writes

@pytest.mark.parametrize('name', sorted(LINES))
def test_lines_of_glue(name):
    source = inspect.getsource(globals()[f'load_{name}']).splitlines()
    marks = [k for k, line in enumerate(source) if line.strip() in ('# glue', '# end')]
    lines = [line for line in source[slice(*marks) if marks else slice(0)] if not line.strip().startswith('#')]
    assert len(lines) <= min(LINES[name], 4), f'{name} needs {len(lines)} lines'
