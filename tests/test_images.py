"Corner cases of mmpkd.image_files and mmpkd.images: files of every kind, the way back, a cache that breaks off"
import io, os, re, struct, subprocess, sys, zlib
from pathlib import Path

import matplotlib
import numpy as np, pandas as pd, pydicom, pytest, torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (DeflatedExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation, ExplicitVRBigEndian,
                         ExplicitVRLittleEndian,
                         ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, MPEG2MPML, RLELossless)

from mmpkd import image_files, images
from mmpkd.tables import BOX
from mmpkd.cohort import Cohort
from mmpkd.image_files import (PERCENTILES, PICTURE_REPAIRS, is_dicom, mask_box, mask_rois, read_dicom, read_image,
                               read_mask, read_noted, resize_mask, to_uint8)
from mmpkd.images import (Geometry, Pixels, cache_pixels, check_regions, clip_regions, picture_digest, unreadable)

matplotlib.use('Agg')

large = st.builds(Geometry, st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 512))
small = st.builds(Geometry, st.integers(1, 120), st.integers(1, 120), st.integers(8, 128))
seeds = st.integers(0, 2**32 - 1)


# Boxes

def some_boxes(geo, seed, n=8): # Boxes within the original image, among them the whole of it and a single pixel
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, n, 2))*[geo.w, geo.h]
    pixel = np.floor(rng.random(2)*[geo.w, geo.h])
    return np.vstack([np.hstack([np.minimum(a, b), np.maximum(a, b)]), [[0, 0, geo.w, geo.h]],
                      [[*pixel, *(pixel + 1)]]])

@settings(max_examples=3000)
@given(large, seeds)
def test_boxes_forth_and_back(geo, seed):
    boxes = some_boxes(geo, seed)
    square = geo.to_model(boxes)
    np.testing.assert_allclose(geo.to_original(square), boxes, rtol=0, atol=1e-12*max(geo.h, geo.w)*geo.size)
    assert square.min() > -1e-9 and square.max() < geo.size + 1e-9
    assert (square[:, :2] <= square[:, 2:] + 1e-9).all()

@settings(max_examples=1000)
@given(large)
def test_the_image_fills_one_side_and_keeps_its_shape(geo):
    (nh, nw), (top, left) = geo.fitted, geo.offset
    assert max(nh, nw) == geo.size and min(nh, nw) >= 1
    assert abs(nh - max(1, geo.h*geo.size/max(geo.h, geo.w))) <= .5
    assert abs(nw - max(1, geo.w*geo.size/max(geo.h, geo.w))) <= .5
    assert 0 <= geo.size - nh - 2*top <= 1 and 0 <= geo.size - nw - 2*left <= 1                # in the middle
    np.testing.assert_allclose(geo.to_model([[0, 0, geo.w, geo.h]]), [[left, top, left + nw, top + nh]])

@settings(max_examples=200)
@given(small)
def test_inside_is_where_the_image_is(geo):
    x0, y0, x1, y1 = geo.to_model([[0, 0, geo.w, geo.h]])[0].round().astype(int)
    expected = np.zeros((geo.size, geo.size), bool)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(geo.inside, expected)
    np.testing.assert_array_equal(geo.to_square(np.full((geo.h, geo.w), 77, np.uint8)), 77*expected)

def test_a_mask_is_resized_by_its_nearest_pixels():
    m = np.kron(np.eye(3, 5), np.full((10, 10), 255)).astype(np.uint8)
    assert set(np.unique(Geometry(*m.shape, 37).to_square(m, Image.Resampling.NEAREST))) == {0, 255}

@pytest.mark.parametrize('shape', [(0, 5, 8), (5, 0, 8), (5, 5, 0), (-1, 5, 8)])
def test_an_impossible_geometry(shape):
    with pytest.raises(ValueError, match='at least 1, not ' + ', '.join(map(str, shape))): Geometry(*shape)

def test_geometry_refuses():
    geo = Geometry(30, 40, 16)
    with pytest.raises(ValueError, match=r'30 x 40 pixels, not \(40, 30\)'): geo.to_square(np.zeros((40, 30), np.uint8))
    with pytest.raises(ValueError, match=r'square map \(g, g\), not \(3, 4\)'): geo.map_to_original(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r'not \(3,\)'): geo.map_to_original(np.zeros(3))
    with pytest.raises(ValueError, match="'bilinear' or 'nearest', not 'bicubic'"):
        geo.map_to_original(np.zeros((3, 3)), 'bicubic')

def test_no_boxes():
    assert Geometry(30, 40, 16).to_model(np.zeros((0, 4))).shape == Geometry(30, 40, 16).to_original([]).shape == (0, 4)


# Maps

def centres(geo): # Centre of each original pixel, in pixels of the square: x (w,), y (h,)
    x, y = np.arange(geo.w) + .5, np.arange(geo.h) + .5
    return geo.to_model(np.stack([x, x, x, x], 1))[:, 0], geo.to_model(np.stack([y, y, y, y], 1))[:, 1]

@settings(max_examples=1200)
@given(small, st.integers(1, 16), seeds)
def test_a_peak_comes_back_to_its_pixel(geo, g, seed):
    "The hot patch is the one that holds a given pixel; the hottest original pixel is half a patch away from it at most"
    x, y = np.random.default_rng(seed).integers([geo.w, geo.h])
    cx, cy = centres(geo)
    patch, m = geo.size/g, np.zeros((g, g))
    m[int(cy[y]//patch), int(cx[x]//patch)] = 1
    heat = geo.map_to_original(m)
    assert heat.shape == (geo.h, geo.w) and heat.dtype == np.float32
    found_y, found_x = np.nonzero(heat >= heat.max() - 1e-5)
    # in original pixels, and one of those
    half_x, half_y = patch/2*geo.w/geo.fitted[1] + 1, patch/2*geo.h/geo.fitted[0] + 1
    assert abs(found_x - x).min() <= half_x + 1e-6 and abs(found_y - y).min() <= half_y + 1e-6

@settings(max_examples=2000)
@given(small, st.integers(1, 16), st.sampled_from(['bilinear', 'nearest']), seeds)
def test_a_planted_peak_comes_back_within_its_patch(geo, g, interpolation, seed):
    "The hottest original pixel is less than a patch from a known one in the only hot patch; with 'nearest' it is in it"
    x, y = np.random.default_rng(seed).integers([geo.w, geo.h])
    cx, cy = (np.floor(c[v]*g/geo.size).astype(int) for c, v in zip(centres(geo), (x, y)))
    # not on the border of two patches
    sure = all(abs(c[v]*g/geo.size - round(c[v]*g/geo.size)) > 1e-6 for c, v in zip(centres(geo), (x, y)))
    assume(sure or interpolation == 'bilinear')
    m = np.zeros((g, g)); m[cy, cx] = 1
    heat = geo.map_to_original(m, interpolation)
    found_y, found_x = np.unravel_index(heat.argmax(), heat.shape)
    (nh, nw), patch = geo.fitted, geo.size/g
    assert abs(found_x - x) <= patch*geo.w/nw + 1e-6 and abs(found_y - y) <= patch*geo.h/nh + 1e-6
    if interpolation == 'nearest': assert heat[y, x] == 1 and set(np.unique(heat)) <= {0, 1}

@settings(max_examples=150)
@given(st.integers(100, 400), st.integers(100, 400), st.sampled_from([(64, 8), (112, 14), (160, 10), (224, 14)]), seeds)
def test_a_lesion_comes_back_through_the_picture(h, w, grid, seed):
    "From bright pixels through PIL's resize and the mean of each patch, and back"
    (size, g), rng = grid, np.random.default_rng(seed)
    geo, patch = Geometry(h, w, size), size//g
    scale = max(h, w)/size                                                  # original pixels per pixel of the square
    side = round(patch*scale)
    x, y = rng.integers([w - side + 1, h - side + 1])
    image = np.zeros((h, w), np.uint8)
    image[y:y+side, x:x+side] = 255
    heat = geo.map_to_original(geo.to_square(image).reshape(g, patch, g, patch).mean((1, 3)))
    found_y, found_x = np.nonzero(heat == heat.max())
    # half a patch, and the rounding of the resize
    tolerance = side/2 + 1.5*max(scale, 1)
    assert abs(found_x + .5 - x - side/2).min() <= tolerance and abs(found_y + .5 - y - side/2).min() <= tolerance

@settings(max_examples=300)
@given(small, st.integers(2, 16), st.floats(-2, 2), st.floats(-2, 2))
def test_a_slope_stays_a_slope(geo, g, a, b):
    "A map linear in the place is linear in the place of each original pixel, as far as patches reach"
    centre = (np.arange(g) + .5)/g
    heat = geo.map_to_original(a*centre[None] + b*centre[:, None])
    x, y = (c/geo.size for c in centres(geo))
    within = [(c >= centre[0]) & (c <= centre[-1]) for c in (y, x)]
    np.testing.assert_allclose(heat[np.ix_(*within)], (a*x[None] + b*y[:, None])[np.ix_(*within)], atol=1e-5)

@settings(max_examples=200)
@given(st.integers(1, 90), st.integers(8, 128), st.integers(1, 16), seeds)
def test_square_images_are_pytorchs_bilinear(n, size, g, seed):
    m = np.random.default_rng(seed).random((g, g), dtype=np.float32)
    twin = F.interpolate(torch.tensor(m)[None, None], size=(n, n), mode='bilinear', align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(Geometry(n, n, size).map_to_original(m), twin, atol=2e-5)

@settings(max_examples=200)
@given(small, st.integers(1, 16), seeds)
def test_nearest_is_the_patch_that_holds_the_pixel(geo, g, seed):
    m = np.random.default_rng(seed).random((g, g), dtype=np.float32)
    x, y = (c*g/geo.size for c in centres(geo))
    sure = np.ix_(abs(y - y.round()) > 1e-6, abs(x - x.round()) > 1e-6)      # not on the border of two patches
    np.testing.assert_array_equal(geo.map_to_original(m, 'nearest')[sure],
                                  m[np.ix_(y.astype(int).clip(0, g-1), x.astype(int).clip(0, g-1))][sure])

def test_nearest_of_a_square_repeats_each_patch():
    m = np.random.default_rng(0).random((14, 14), dtype=np.float32)
    np.testing.assert_array_equal(Geometry(224, 224, 224).map_to_original(m, 'nearest'), m.repeat(16, 0).repeat(16, 1))

@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
def test_many_maps_at_once(interpolation):
    m, geo = np.random.default_rng(0).random((2, 3, 7, 7)), Geometry(50, 31, 56)
    heat = geo.map_to_original(m, interpolation)
    assert heat.shape == (2, 3, 50, 31)
    np.testing.assert_array_equal(heat[1, 2], geo.map_to_original(m[1, 2], interpolation))

@given(small, st.integers(1, 16), st.sampled_from(['bilinear', 'nearest']), seeds)
def test_a_map_never_leaves_its_range(geo, g, interpolation, seed):
    m = np.random.default_rng(seed).random((g, g))
    heat = geo.map_to_original(m, interpolation)
    assert heat.min() >= m.min() - 1e-5 and heat.max() <= m.max() + 1e-5


# Grey values

@given(st.lists(st.one_of(st.integers(-2**31, 2**31 - 1), st.integers(-10**6, 10**6).map(lambda i: i/1000)),
                min_size=1, max_size=20))
def test_to_uint8_keeps_the_order_and_uses_the_range(values):
    a = np.array(values, float)
    b = to_uint8(a).astype(int)
    assert (np.diff(b[a.argsort()]) >= 0).all()
    assert (b.min(), b.max()) == ((0, 255) if a.min() < a.max() else (0, 0))

dtypes = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])

@settings(max_examples=300)
@given(dtypes, st.sampled_from([(0, 100), PERCENTILES, (10, 60)]), st.integers(1, 600), seeds)
def test_percentiles_are_numpys(dtype, percentiles, n, seed):
    "Whatever the type, and where counting gives way to sorting"
    rng = np.random.default_rng(seed)
    top = 1e6 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    a = (rng.normal(0, 1, (n, 3))*rng.choice([3, top/8])).clip(-top if np.issubdtype(dtype, np.signedinteger)
                                                               or np.issubdtype(dtype, np.floating) else 0,
                                                               top).astype(dtype)
    lo, hi = np.percentile(a.astype(float), percentiles, method='inverted_cdf')
    if lo == hi: lo, hi = float(a.min()), float(a.max())
    expected = ((a - lo)/(hi - lo)).clip(0, 1)*255 if hi > lo else np.zeros(a.shape)
    b = to_uint8(a, percentiles)
    assert b.dtype == np.uint8 and np.abs(b - expected).max() <= .5 + 1e-6

def test_a_small_spot_is_not_lost(): # the percentiles agree; so the whole range is shown
    a = np.zeros((100, 100), np.uint16); a[5, 5] = 900
    b = to_uint8(a, PERCENTILES)
    assert b[5, 5] == 255 and b.sum() == 255

def test_large_numbers_close_together():                                    # float32 would make them all alike
    np.testing.assert_array_equal(to_uint8(np.array([2**32 - 3, 2**32 - 2, 2**32 - 1], np.uint32)), [0, 128, 255])

@pytest.mark.parametrize('percentiles', [(99, 1), (5, 5), (-1, 50), (0, 101)])
def test_impossible_percentiles(percentiles):
    with pytest.raises(ValueError, match='percentiles must be two numbers from 0 to 100'):
        to_uint8(np.arange(5), percentiles)

@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses(value):
    with pytest.raises(ValueError, match='not finite'): to_uint8(np.array([0, value, 1]))


# Files that PIL reads

ramp = np.arange(1200, dtype=np.uint8).reshape(30, 40)

def test_8_bits_come_as_they_are(tmp_path):                                 # not stretched
    Image.fromarray(ramp//4 + 100).save(tmp_path/'a.png')
    np.testing.assert_array_equal(read_image(tmp_path/'a.png'), ramp//4 + 100)

@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bits_are_scaled_between_the_percentiles(tmp_path, suffix):
    a = np.arange(1200, dtype=np.uint16).reshape(30, 40)*3 + 500
    Image.fromarray(a).save(tmp_path/f'a.{suffix}')
    np.testing.assert_allclose(read_image(tmp_path/f'a.{suffix}'), percentiles(a), atol=.51)

def test_floats_are_scaled_and_must_be_finite(tmp_path):
    a = np.linspace(-1, 1, 1200, dtype=np.float32).reshape(30, 40)
    Image.fromarray(a).save(tmp_path/'a.tif')
    np.testing.assert_array_equal(read_image(tmp_path/'a.tif'), to_uint8(a, PERCENTILES))
    a[3, 3] = np.nan
    Image.fromarray(a).save(tmp_path/'a.tif')
    with pytest.raises(ValueError, match='a.tif: damaged|a.tif: pixel values are not finite'):
        read_image(tmp_path/'a.tif')

colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]], np.uint8)
grey = np.rint(colours @ [.299, .587, .114])

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_colours_become_luminance(tmp_path, mode):
    Image.fromarray(np.stack([colours, colours])).convert(mode,
                                                          **dict(palette=Image.Palette.ADAPTIVE)
                                                          if mode == 'P' else {}).save(tmp_path/'a.png')
    with Image.open(tmp_path/'a.png') as im: assert im.mode == mode
    np.testing.assert_allclose(read_image(tmp_path/'a.png'), np.stack([grey, grey]), atol=1)

@pytest.mark.parametrize('mode', ['LA', '1'])
def test_other_greys(tmp_path, mode):
    a = (ramp > 127)*np.uint8(255)
    Image.fromarray(a).convert(mode).save(tmp_path/'a.png')
    np.testing.assert_array_equal(read_image(tmp_path/'a.png'), a)

@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_jpeg(tmp_path, mode):
    a = np.linspace(0, 255, 1200).reshape(30, 40).astype(np.uint8)
    Image.fromarray(a).convert(mode).save(tmp_path/'a.jpg', quality=95)
    r = read_image(tmp_path/'a.jpg')
    assert r.shape == (30, 40) and abs(r - a.astype(float)).mean() < 2

def test_pages_are_frames(tmp_path):
    Image.fromarray(ramp).save(tmp_path/'a.tif', save_all=True, append_images=[Image.fromarray(255 - ramp)])
    with pytest.raises(ValueError, match='a.tif: 2 frames; say which one with frame=0..1'): read_image(tmp_path/'a.tif')
    np.testing.assert_array_equal(read_image(tmp_path/'a.tif', frame=1), 255 - ramp)
    with pytest.raises(ValueError, match='a.tif: there is no frame 2, only 0..1'): read_image(tmp_path/'a.tif', frame=2)

def test_content_decides_not_the_suffix(tmp_path):
    Image.fromarray(ramp).save(tmp_path/'a.png')
    (tmp_path/'a').write_bytes((tmp_path/'a.png').read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path/'a'), ramp)
    assert not is_dicom(tmp_path/'a')


# Reasons

@pytest.mark.parametrize('keep', [0, 20, .5, .95])
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'dcm', 'j2k.dcm', 'dfl.dcm'])
def test_a_truncated_file(tmp_path, suffix, keep):
    f, noise = tmp_path/f'half.{suffix}', np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    syntax = {'j2k.dcm': JPEG2000Lossless, 'dfl.dcm': DeflatedExplicitVRLittleEndian}.get(suffix,
        ExplicitVRLittleEndian)
    save_dicom(f, noise, syntax=syntax) if suffix.endswith('dcm') else Image.fromarray(noise).save(f)
    data = f.read_bytes()
    f.write_bytes(data[:keep if keep > 1 else int(keep*len(data))])
    known = {0: 'empty file', 20: 'not DICOM|not a DICOM file|not an image of a known format|truncated'}.get(keep,
        'truncated')
    with pytest.raises(ValueError, match=f'^cannot read the image half.{suffix}: ({known})'): read_image(f)

def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='^cannot read the image gone.png: missing file$'):
        read_image(tmp_path/'gone.png')
    with pytest.raises(FileNotFoundError, match='missing file'): read_image(tmp_path)
    (tmp_path/'text.dcm').write_text('not DICOM, whatever its name')
    with pytest.raises(ValueError, match='^cannot read the image text.dcm: not a DICOM file, whatever its name$'):
        read_image(tmp_path/'text.dcm')

@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='whoever may read everything cannot be refused')
def test_a_file_that_must_not_be_read(tmp_path):
    Image.fromarray(ramp).save(tmp_path/'a.png')
    (tmp_path/'a.png').chmod(0)
    with pytest.raises(ValueError, match='no permission'): read_image(tmp_path/'a.png')

@pytest.mark.parametrize('syntax', [MPEG2MPML, pydicom.uid.UID('1.2.840.113619.5.2')])
def test_a_transfer_syntax_that_nobody_decodes(tmp_path, syntax):
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', detector))
    ds.file_meta.TransferSyntaxUID, ds.PixelData = syntax, encapsulate([b'video!'])
    ds['PixelData'].is_undefined_length = True
    pydicom.dcmwrite(tmp_path/'a.dcm', ds, implicit_vr=False, little_endian=True)
    with pytest.raises(ValueError, match=f'a.dcm: no decoder for the transfer syntax {syntax.name}'):
        read_image(tmp_path/'a.dcm')

@pytest.mark.parametrize('gone,why', [(['Rows'], 'its header has no Rows'),
                                      (['BitsAllocated', 'PhotometricInterpretation'],
                                       'its header has no BitsAllocated, PhotometricInterpretation'),
                                      (['PixelData'], 'truncated'), (['PixelData', 'Rows'], 'no pixels in it')])
def test_a_header_that_lacks_something(tmp_path, gone, why):
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', detector))
    for k in gone: del ds[k]
    ds.save_as(tmp_path/'a.dcm')
    with pytest.raises(ValueError, match=f'a.dcm: {why}'): read_image(tmp_path/'a.dcm')

@pytest.mark.parametrize('photometric', ['HSV', 'GREYISH'])
def test_an_unknown_kind_of_colour(tmp_path, photometric):
    with pytest.raises(ValueError, match='a.dcm: its PhotometricInterpretation is unknown'):
        read_image(save_dicom(tmp_path/'a.dcm', detector, photometric))

def test_damaged_pixels(tmp_path):
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', detector, syntax=RLELossless))
    ds.PixelData = encapsulate([b'\x12'*400])
    ds.save_as(tmp_path/'a.dcm')
    with pytest.raises(ValueError, match='a.dcm: damaged pixels .RLE Lossless'): read_image(tmp_path/'a.dcm')

def test_a_reason_tells_nothing_of_the_patient(tmp_path, recwarn):
    "Neither folder nor header, whatever is wrong"
    secret = tmp_path/'Doe_Jane_1950'; secret.mkdir()
    save = lambda name, **tags: save_dicom(secret/name, detector, PatientName='Doe^Jane', PatientID='p1950',
                                           StudyInstanceUID='1.2.1950', **tags)
    ids = 'empty text cut1 cut2 half frames window slope lut header photo j2k png noise'.split()
    fine = {'window', 'slope', 'lut', 'noise'}                              # junk in one element costs that element
    for name in ids: save(f'{name}.dcm')
    (secret/'empty.dcm').write_bytes(b''); (secret/'text.dcm').write_text('Jane Doe')
    (secret/'png.dcm').write_bytes(b'\x89PNG\r\n\x1a\n1950')
    whole = save('half.dcm').read_bytes()
    for name, n in (('cut1', 200), ('cut2', 600), ('half', len(whole) - 500)):
        (secret/f'{name}.dcm').write_bytes(whole[:n])
    save('frames.dcm', NumberOfFrames=3)
    save('slope.dcm', RescaleSlope=0, RescaleIntercept=0)
    save('lut.dcm', ModalityLUTSequence=Sequence([table([1, 2, 3], 900)]))
    save('header.dcm', Rows=None)
    save('window.dcm', WindowCenter='1950.25', WindowWidth='1950')
    (secret/'window.dcm').write_bytes((secret/'window.dcm').read_bytes().replace(b'1950.25', b'Doe1950'))
    save('photo.dcm', PhotometricInterpretation='DOE JANE')
    (secret/'j2k.dcm').write_bytes(save_dicom(secret/'j2k.dcm', np.kron(detector, np.ones((3, 3), int)),
                                              syntax=JPEG2000Lossless).read_bytes()[:-90])
    rng = np.random.default_rng(0)
    noisy = bytearray(whole)
    for at in rng.integers(140, len(noisy), 60): noisy[at] = int(rng.integers(256))
    (secret/'noise.dcm').write_bytes(noisy)
    items = pd.DataFrame(dict(image_id=ids + ['gone'], patient_id=range(len(ids) + 1), split='train',
                              image=[f'{k}.dcm' for k in ids + ['gone']], mass=0))
    bad = unreadable(Cohort(items, ['mass'], root=secret))
    assert set(bad.image_id) >= set(ids + ['gone']) - fine and not set(bad.image_id) & (fine - {'noise'})
    said = ' '.join(bad.reason) + ' '.join(PICTURE_REPAIRS) + ' '.join(str(w.message) for w in recwarn)
    assert not [w for w in ('1950', 'Doe', 'Jane', 'DOE', str(tmp_path), '.dcm') if w in said], said
    assert bad.reason.str.len().max() < 80


# Masks

def test_masks(tmp_path):
    m = np.zeros((20, 30), np.uint8)
    Image.fromarray(m).save(tmp_path/'m.png')
    with pytest.raises(ValueError, match='^cannot read the mask m.png: empty; '): read_mask(tmp_path/'m.png')
    with pytest.raises(FileNotFoundError, match='^cannot read the mask gone.png: missing file$'):
        read_mask(tmp_path/'gone.png')
    m[3:8, 4:9] = 1
    for top in (1, 128, 255):
        Image.fromarray(m*np.uint8(top)).save(tmp_path/'m.png')
        np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), m > 0)
    # ringing at the outline
    Image.fromarray(np.kron(m, np.full((8, 8), 255, np.uint8))).save(tmp_path/'m.jpg', quality=60)
    np.testing.assert_array_equal(read_mask(tmp_path/'m.jpg'), np.kron(m, np.ones((8, 8))) > 0)
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path/'m.png')
    assert read_mask(tmp_path/'m.png').all()

@pytest.mark.parametrize('top', [1, 255, 65535])
@pytest.mark.parametrize('kind', ['png', 'dcm', 'dcm1'])
def test_a_mask_of_one_pixel_in_ten_thousand(tmp_path, kind,
                                             top):            # no percentile and no window may swallow it
    m = np.zeros((100, 100), np.uint16); m[40, 70] = top
    f = tmp_path/'m'
    if kind == 'png': Image.fromarray(m).save(tmp_path/'m', 'png')
    else:
        save_dicom(f, m if kind == 'dcm' else top - m, 'MONOCHROME2' if kind == 'dcm' else 'MONOCHROME1', bits=16,
                   WindowCenter=90000, WindowWidth=2)
    assert np.argwhere(read_mask(f)).tolist() == [[40, 70]]

def test_a_dicom_mask_of_ones_is_not_empty(tmp_path):
    assert read_mask(save_dicom(tmp_path/'m.dcm', np.full((6, 7), 255, np.uint16))).all()
    with pytest.raises(ValueError, match='empty'): read_mask(save_dicom(tmp_path/'m.dcm', np.zeros((6, 7), np.uint16)))

blobs = st.tuples(st.integers(4, 80), st.integers(4, 80), seeds)

@settings(max_examples=500)
@given(blobs, st.floats(.5, 4))
def test_a_resized_mask_has_the_resized_box(blob, factor):
    h0, w0, seed = blob
    rng = np.random.default_rng(seed)
    (y0, y1), (x0, x1) = (sorted(rng.choice(n + 1, 2, replace=False)) for n in (h0, w0))
    m = np.zeros((h0, w0), bool); m[y0:y1, x0:x1] = True
    h, w = max(1, round(h0*factor)), max(1, round(w0*factor))
    try: out = resize_mask(m, h, w)
    except ValueError as e:
        assert ('nothing is left' in str(e) and factor < 1) or max(w0*h/(w*h0), w*h0/(w0*h)) > 1.02
        return
    np.testing.assert_allclose(mask_box(out), [x0*w/w0, y0*h/h0, x1*w/w0, y1*h/h0], atol=.5 + 1e-9)
    assert (out == m).all() if (h, w) == (h0, w0) else out.shape == (h, w)

def test_a_mask_is_resized_by_nearest_neighbour():
    m = np.random.default_rng(0).random((30, 40)) > .5
    np.testing.assert_array_equal(resize_mask(m, 60, 80), np.kron(m, np.ones((2, 2))) > 0)
    np.testing.assert_array_equal(resize_mask(np.kron(m, np.ones((3, 3))) > 0, 30, 40), m)
    twin = np.asarray(Image.fromarray(m.astype(np.uint8)).resize((53, 40), Image.Resampling.NEAREST)) > 0
    np.testing.assert_array_equal(resize_mask(m, 40, 53), twin)

@pytest.mark.parametrize('shape,fits', [((100, 101), True), ((100, 98), False), ((98, 100), False), ((200, 203), True),
                                        ((100, 50), False), ((50, 50), True)])
def test_only_the_same_aspect_is_resized(shape, fits):
    m = np.ones((100, 100), bool)
    if fits: assert resize_mask(m, *shape).shape == shape
    else:
        with pytest.raises(ValueError, match=rf'100 x 100 pixels .width x height., its image {shape[1]} x {shape[0]}'):
            resize_mask(m, *shape)
    assert resize_mask(m, 100, 90, tolerance=.2).shape == (100, 90)

def test_a_lesion_that_vanishes():
    m = np.zeros((40, 40), bool); m[0, 0] = True
    with pytest.raises(ValueError, match='nothing is left of it at 4 x 4 pixels'): resize_mask(m, 4, 4)
    assert not resize_mask(np.zeros((40, 40), bool), 4, 4).any()             # nothing was there

def test_read_mask_resizes(tmp_path):
    m = np.zeros((20, 30), np.uint8); m[3:8, 4:9] = 255
    Image.fromarray(m).save(tmp_path/'m.png')
    assert mask_box(read_mask(tmp_path/'m.png', (40, 60))) == (8, 6, 18, 16)
    with pytest.raises(ValueError,
                       match='cannot read the mask m.png: 30 x 20 pixels .width x height., its image 20 x 30'):
        read_mask(tmp_path/'m.png', (30, 20))


# Regions from masks

@pytest.fixture
def outlines(tmp_path):
    "Six masks of different kinds and the images they were drawn on"
    rows = []
    for k in range(6):
        m = np.zeros((40, 60), np.uint8); m[k:k+9, 2*k:2*k+5] = 255
        if k % 2: save_dicom(tmp_path/f'm{k}.dcm', m.astype(np.uint16))
        else: Image.fromarray(m).save(tmp_path/f'm{k}.png')
        Image.fromarray(m//2).save(tmp_path/f'i{k}.png')
        rows.append(dict(image_id=f'im{k//2}', label='mass', image=f'i{k}.png',
                         path=f"m{k}.{'dcm' if k % 2 else 'png'}", more=k))
    return pd.DataFrame(rows, index=list('zyxwvu'))

def test_regions_from_masks(outlines, tmp_path):
    r = mask_rois(outlines, tmp_path, 'path', n_jobs=3)
    assert list(r.columns) == ['image_id', 'label', *BOX, 'mask'] and r.index.tolist() == list(range(6))
    assert (r.dtypes[BOX] == float).all()
    assert r[BOX].to_numpy().tolist() == [[2*k, k, 2*k + 5, k + 9] for k in range(6)]
    assert r['mask'].tolist() == outlines.path.tolist()
    pd.testing.assert_frame_equal(mask_rois(outlines.drop(columns='image').rename(columns=dict(path='mask')),
                                            str(tmp_path), n_jobs=1), r)
    assert len(mask_rois(outlines[:0], tmp_path, 'path')) == 0

def test_regions_are_in_pixels_of_the_image(outlines, tmp_path):
    Image.new('L', (120, 80), 3).save(tmp_path/'i2.png')                     # twice the mask
    save_dicom(tmp_path/'i3.png', np.ones((20, 30), np.uint16))              # half of it
    r = mask_rois(outlines, tmp_path, 'path')
    assert r[BOX].iloc[[2, 3]].to_numpy().tolist() == [[8, 4, 18, 22], [3, 1, 5, 6]]
    # somebody else's error; the mask speaks for itself
    (tmp_path/'i2.png').unlink()
    assert mask_rois(outlines, tmp_path, 'path')[BOX].iloc[2].tolist() == [4, 2, 9, 11]

def test_all_useless_masks_are_named_at_once(outlines, tmp_path):
    Image.new('L', (60, 40)).save(tmp_path/'m0.png')
    save_dicom(tmp_path/'m1.dcm', np.full((40, 60), 255, np.uint16))
    (tmp_path/'m2.png').write_bytes(b'no image')
    Image.new('L', (60, 60), 255).save(tmp_path/'i4.png')
    with pytest.raises(ValueError) as e: mask_rois(outlines, tmp_path, 'path')
    assert str(e.value).splitlines() == ['3 of 6 masks cannot be used:', 'im0: all of the image is marked',
                                         'im1: not an image of a known format',
                                         'im2: 60 x 40 pixels (width x height), its image 60 x 60']

def test_missing_masks_are_told_first(outlines, tmp_path):
    for k in (0, 4): (tmp_path/f'm{k}.png').unlink()
    (tmp_path/'m2.png').write_bytes(b'no image')
    with pytest.raises(FileNotFoundError,
                       match="^2 of 6 masks are missing, of image 'im0', 'im2'; paths are relative to root$"):
        mask_rois(outlines, tmp_path, 'path')
    with pytest.raises(ValueError, match="the table of masks has no column 'mask'"): mask_rois(outlines, tmp_path)


# Masks of every kind. The family: several greys, one colour for each lesion, edges that are soft or lossy,
# transparency, palettes, black on white, nothing at all, several files. All that is marked, or refused in words.

A, B = np.zeros((40, 48), bool), np.zeros((40, 48), bool)
A[5:15, 5:15], B[25:35, 25:38] = True, True

def levels(a, b): return (A*a + B*b).astype(np.uint8 if max(a, b) < 256 else np.uint16)

@pytest.mark.parametrize('a,b', [(1, 2), (127, 255), (64, 255), (1, 20), (10, 200), (85, 170), (300, 65535), (2, 1)])
@pytest.mark.parametrize('kind', ['png', 'tif', 'dcm', 'dcm1'])
def test_several_greys_are_several_lesions(tmp_path, a, b, kind):
    g, f = levels(a, b), tmp_path/f"m.{kind.rstrip('1')}"
    if kind == 'png' or kind == 'tif': Image.fromarray(g).save(f)
    else: save_dicom(f, int(g.max()) - g.astype(np.int64) if kind == 'dcm1' else g,
        'MONOCHROME1' if kind == 'dcm1' else 'MONOCHROME2', bits=16)
    if a*32 < b:
        with pytest.raises(ValueError, match='m.* it has areas of several greys, which may be lesions or not'):
            read_mask(f)
    else: np.testing.assert_array_equal(read_mask(f), A | B)

def test_levels_that_touch_and_small_ones(tmp_path):
    # a core in a ring, and one pixel
    g = np.zeros((40, 48), np.uint8); g[5:25, 5:25] = 1; g[10:20, 10:20] = 2; g[30, 30] = 1
    Image.fromarray(g).save(tmp_path/'m.png')
    np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), g > 0)
    # 48 lesions in a label image
    many = np.kron(np.arange(49).reshape(7, 7), np.pad(np.ones((4, 4)), 2)).astype(np.uint8)
    many = np.pad(many, 4)
    Image.fromarray(many).save(tmp_path/'m.png')
    with pytest.raises(ValueError, match='several greys'): read_mask(tmp_path/'m.png') # 1 beside 48 might be a codec's
    np.testing.assert_array_equal(read_mask(save_png(tmp_path, np.where(many > 9, many, 0))), many > 9)

def save_png(folder, a):
    Image.fromarray(a.astype(np.uint8)).save(folder/'m.png')
    return folder/'m.png'

# in pixels from the edge
def disc(h=60, w=80, r=17.3): y, x = np.mgrid[:h, :w]; return r + .5 - np.hypot(y - 30.2, x - 35.4)

@pytest.mark.parametrize('soft', [1, 2, 6, 20])
def test_soft_edges_are_cut_in_the_middle(tmp_path, soft):
    d = disc()
    np.testing.assert_array_equal(read_mask(save_png(tmp_path, (d/soft + .5).clip(0, 1)*255)),
        np.floor((d/soft + .5).clip(0, 1)*255) > 127.5)

@pytest.mark.parametrize('zoom', [2, 3])
def test_edges_of_a_few_greys(tmp_path, zoom): # made small from a mask twice or three times the size
    big = np.kron(disc() > 0, np.ones((1, 1)))[:60//zoom*zoom, :78]
    small = big.reshape(60//zoom, zoom, 78//zoom, zoom).mean((1, 3))*255
    m = read_mask(save_png(tmp_path, small))
    np.testing.assert_array_equal(m, small.astype(np.uint8) > 127.5)

@pytest.mark.parametrize('quality', [30, 60, 75, 95])
@pytest.mark.parametrize('again', [False, True])
def test_lossy_masks(tmp_path, quality, again):                              # also when saved as PNG later
    m = disc() > 0
    Image.fromarray(m).convert('L').save(tmp_path/'m.jpg', quality=quality)
    f = tmp_path/'m.jpg'
    if again: f = save_png(tmp_path, np.asarray(Image.open(f)))
    assert (read_mask(f) ^ m).mean() < .005

@pytest.mark.parametrize('quality', [60, 90])
def test_two_greys_in_a_lossy_mask_are_never_halved(tmp_path, quality):
    g = np.zeros((96, 96), np.uint8); g[10:40, 10:40] = 110; g[50:90, 50:90] = 255
    Image.fromarray(g).save(tmp_path/'m.jpg', quality=quality)
    try: assert (read_mask(tmp_path/'m.jpg') ^ (g > 0)).mean() < .01
    except ValueError as e: assert 'several greys' in str(e)

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 0, 0), (0, 128, 128), (255, 255, 0), (40, 40, 60)]

@pytest.mark.parametrize('one', COLOURS)
@pytest.mark.parametrize('two', COLOURS[:4])
def test_one_colour_for_each_lesion(tmp_path, one, two):
    rgb = np.zeros((40, 48, 3), np.uint8); rgb[A], rgb[B] = one, two
    Image.fromarray(rgb).save(tmp_path/'m.png')
    np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), A | B)
    Image.fromarray(rgb).quantize(8).save(tmp_path/'p.png')                 # the same with a palette
    np.testing.assert_array_equal(read_mask(tmp_path/'p.png'), A | B)
    save_dicom(tmp_path/'m.dcm', rgb, 'RGB', bits=8, allocated=8)
    np.testing.assert_array_equal(read_mask(tmp_path/'m.dcm'), A | B)

def test_lesions_in_transparency(tmp_path):
    def rgba(colour, ground, alpha, below):
        a = np.zeros((40, 48, 4), np.uint8); a[..., :3], a[..., 3] = ground, below
        a[A] = [*colour, alpha]
        return a
    cases = [((0, 0, 0), (0, 0, 0), 255, 0), ((255, 0, 0), (0, 0, 0), 128, 0),
        ((255, 255, 255), (255, 255, 255), 255, 0), ((0, 0, 0), (255, 255, 255), 255, 0),
             ((255, 255, 255), (0, 0, 0), 255, 255), ((9, 9, 9), (0, 0, 0), 128, 128)]
    for case in cases:
        Image.fromarray(rgba(*case)).save(tmp_path/'m.png')
        np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), A, err_msg=str(case))
    # a transparent corner beside white on black
    white = rgba((255, 255, 255), (0, 0, 0), 255, 255); white[:3, :3, 3] = 0
    Image.fromarray(white).save(tmp_path/'m.png')
    np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), A)

@pytest.mark.parametrize('suffix', ['png', 'jpg', 'dcm', 'tif'])
def test_black_on_white_is_refused(tmp_path, suffix):
    dark, f = np.where(A, 0, 255).astype(np.uint8), tmp_path/f'm.{suffix}'
    save_dicom(f, dark, bits=8, allocated=8) if suffix == 'dcm' else Image.fromarray(dark).save(f)
    with pytest.raises(ValueError, match='it marks the border of the image, as a mask in black on white does'):
        read_mask(f)
    with pytest.raises(ValueError, match='a: it marks the border'): mask_rois(pd.DataFrame(dict(image_id=['a'],
        label='y', mask=f.name)), tmp_path)

@pytest.mark.parametrize('box', [(0, 0, 40, 20), (0, 0, 25, 48), (10, 0, 40, 48), (1, 1, 39, 47), (0, 10, 40, 40)])
def test_a_large_lesion_at_the_border_is_no_ground(tmp_path, box):
    m = np.zeros((40, 48), np.uint8); m[box[0]:box[2], box[1]:box[3]] = 255
    np.testing.assert_array_equal(read_mask(save_png(tmp_path, m)), m > 0)

def on(lesion, background): return np.where(A[..., None], np.uint8(lesion), np.uint8(background))

@pytest.mark.parametrize('lesion,background', [((253, 231, 36), (68, 1, 84)), ((128, 0, 0), (0, 0, 128)),
    ((255, 0, 0), (255, 255, 255)), ((235,)*3, (16,)*3)])
@pytest.mark.parametrize('kind', ['png', 'dcm'])
def test_a_lesion_on_another_colour_than_black_is_refused(tmp_path, lesion, background, kind):
    "Colour maps, red on white, grey values of video"
    f = tmp_path/f'm.{kind}'
    if kind == 'png': Image.fromarray(on(lesion, background)).save(f)
    else: save_dicom(f, on(lesion, background), 'RGB', bits=8, allocated=8)
    with pytest.raises(ValueError, match='nothing in it is black; the background must be black'): read_mask(f)

def ring(inner, outer):
    r = np.hypot(*np.mgrid[-19:21, -23:25])
    return (inner < r) & (r < outer)

def frame_at(k, n=2): # A frame k pixels inside the border, n wide
    m = np.zeros((40, 48), bool)
    m[k:40-k, k:48-k] = True
    m[k+n:40-k-n, k+n:48-k-n] = False
    return m

@pytest.mark.parametrize('m', [frame_at(0) | A, frame_at(0, 5) | A, frame_at(4, 1) | A, frame_at(10, 1),
    ring(13, 14.5)])
def test_outlines_and_frames_are_refused(tmp_path, m):
    with pytest.raises(ValueError, match='an outline, or a frame|the border of the image'):
        read_mask(save_png(tmp_path, m*255))

@pytest.mark.parametrize('m', [ring(10, 15),
    frame_at(10, 1)[:, :30], np.eye(40, 48) > 0, A | B,
    (abs(np.mgrid[:40, :48][0] - 20) < 8) | (np.arange(48) % 40 < 9)])
def test_rings_lines_and_open_shapes_are_lesions(tmp_path, m):
    np.testing.assert_array_equal(read_mask(save_png(tmp_path, m*255)), m)

@pytest.mark.parametrize('smooth', [0, .5, 2, 5])
@pytest.mark.parametrize('outline', [False, True])
def test_a_picture_in_the_place_of_a_mask_is_refused(tmp_path, smooth, outline):
    a = gaussian_filter(np.random.default_rng(0).normal(size=(240, 320)), smooth)
    a = np.rint(200*(a - a.min())/np.ptp(a))
    if outline: a[frame_at(4).repeat(6, 0).repeat(6, 1)[:, :320].nonzero()] = 255
    with pytest.raises(ValueError, match='looks like a picture|areas of several greys'):
        read_mask(save_png(tmp_path, a))

@pytest.mark.parametrize('width', [2, 8, 40])
@pytest.mark.parametrize('soft', [1, 3, 8])
def test_soft_masks_are_no_pictures(tmp_path, width, soft):
    band = abs(np.mgrid[:200, :260][0] - 90 - 20*np.sin(np.arange(260)/20)) < width
    a = gaussian_filter(band*255., soft).round()
    np.testing.assert_array_equal(read_mask(save_png(tmp_path, a)), a > a.max()/2)

def test_numbers_that_are_no_grey(tmp_path):
    Image.fromarray(np.where(A, 1., np.nan).astype(np.float32)).save(tmp_path/'m.tif')
    np.testing.assert_array_equal(read_mask(tmp_path/'m.tif'), A)
    for lesion, background in ((0, -1), (-1, 0), (1, -1)):
        Image.fromarray(np.where(A, lesion, background).astype(np.int32)).save(tmp_path/'m.tif')
        with pytest.raises(ValueError, match='it has negative values'): read_mask(tmp_path/'m.tif')

def test_a_mask_of_which_nothing_can_be_seen_is_empty(tmp_path):
    Image.fromarray(np.full((8, 9, 4), [255, 255, 255, 0], np.uint8)).save(tmp_path/'m.png')
    with pytest.raises(ValueError, match='empty'): read_mask(tmp_path/'m.png')

def test_a_dicom_mask_of_one_value(tmp_path):
    for photometric, value, full in (('MONOCHROME2', 1, True), ('MONOCHROME2', 0, False), ('MONOCHROME1', 0, True),
        ('MONOCHROME1', 255, False)):
        f = save_dicom(tmp_path/'m.dcm', np.full((6, 7), value, np.uint16), photometric)
        if full: assert read_mask(f).all()
        else:
            with pytest.raises(ValueError, match='empty'): read_mask(f)

def test_a_mask_shown_in_reverse_is_read_in_reverse(tmp_path):
    f = save_dicom(tmp_path/'m.dcm', np.where(A, 0, 255).astype(np.uint8), bits=8, allocated=8,
        PresentationLUTShape='INVERSE')
    np.testing.assert_array_equal(read_mask(f), A)

def test_an_empty_mask_means_no_lesion(outlines, tmp_path):
    Image.new('L', (60, 40)).save(tmp_path/'m0.png')
    save_dicom(tmp_path/'m3.dcm', np.zeros((40, 60), np.uint16))
    r = mask_rois(outlines, tmp_path, 'path')
    assert r['mask'].tolist() == ['m1.dcm', 'm2.png', 'm4.png',
        'm5.dcm'] and r.index.tolist() == list(range(4)) and r.x0.tolist() == [2, 4, 8, 10]
    only = mask_rois(outlines[:1], tmp_path, 'path')
    assert len(only) == 0 and list(only.columns) == ['image_id', 'label', *BOX,
        'mask'] and (only.dtypes[BOX] == float).all()

@pytest.mark.parametrize('cells', [['m0.png', None, ''], ['m0.png;m2.png', ' ', 'm4.png'],
    ['m0.png | m2.png', 'm4.png', 'm1.dcm|'], [['m0.png', 'm2.png'], [], ['m4.png', None]],
                                   [np.array(['m0.png', 'm2.png']), ('m4.png',), np.nan]])
def test_several_masks_of_an_image(outlines, tmp_path, cells):
    t = pd.DataFrame(dict(image_id=list('abc'), label='mass')); t['mask'] = pd.Series(cells, dtype=object)
    r = mask_rois(t, tmp_path)
    def paths(c): return [p.strip() for p in re.split(r'[;|]', c) if p.strip()] if isinstance(c,
        str) else [p for p in c if p] if isinstance(c, (list, tuple, np.ndarray)) else []
    assert list(zip(r.image_id, r['mask'])) == [(k, p) for k, c in zip('abc', cells) for p in paths(c)]
    assert r.x0.tolist() == [2*int(p[1]) for p in r['mask']]
    with pytest.raises(FileNotFoundError,
        match="1 of 2 masks are missing, of image 'a'"): mask_rois(t.assign(mask='m0.png;gone.png')[:1], tmp_path)

def test_a_name_with_a_semicolon_is_a_name(outlines, tmp_path):
    (tmp_path/'m0.png').rename(tmp_path/'m;0.png')
    assert mask_rois(pd.DataFrame(dict(image_id=['a'], label='y', mask='m;0.png')),
        tmp_path)['mask'].tolist() == ['m;0.png']


# DICOM

def save_dicom(path, a, photometric='MONOCHROME2', bits=12, allocated=16, syntax=ExplicitVRLittleEndian, **tags):
    "A file of grey values, or of colours, with any further tags"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = '1.2.3'
    ds = FileDataset(path, {}, b'\0'*128, meta, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, '1.2.3', 'DX'
    colour = photometric.startswith(('RGB', 'YBR'))
    ds.Rows, ds.Columns = a.shape[-3:-1] if colour else a.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour: ds.PlanarConfiguration = 0
    ds.PixelRepresentation = int(a.dtype.kind != 'f' and a.min() < 0)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, min(bits, allocated), min(bits, allocated) - 1
    order = '>' if syntax == ExplicitVRBigEndian else '<'
    if a.dtype.kind == 'f':
        del ds.PixelRepresentation, ds.BitsStored, ds.HighBit
        setattr(ds, {32: 'FloatPixelData', 64: 'DoubleFloatPixelData'}[allocated],
                a.astype(f'{order}f{allocated//8}').tobytes())
    elif allocated == 1: ds.PixelData = np.packbits(a.ravel().astype(np.uint8), bitorder='little').tobytes()
    else:
        ds.PixelData = a.astype(f"{order}{'i' if ds.PixelRepresentation else 'u'}{allocated//8}").tobytes()
        ds['PixelData'].VR = 'OB' if allocated == 8 else 'OW'
    if 'PixelData' in ds and len(ds.PixelData) % 2: ds.PixelData += b'\0'
    for k, v in tags.items(): setattr(ds, k, v)
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path)
    return path

detector = np.arange(0, 4096, 7, dtype=np.uint16)[:560].reshape(20, 28)

def window(x, c, w): return np.clip((x - (c - .5))/(w - 1) + .5, 0, 1)      # PS3.3 C.11.2.1.2.1

def percentiles(x, q=PERCENTILES): # What is shown without a window
    lo, hi = np.percentile(x, q, method='inverted_cdf').astype(float)
    return ((x - lo)/(hi - lo)).clip(0, 1)*255

def pydicoms(path, frame=None, voi=0):
    "The result of pydicom's own pipeline, its full output range scaled to 0..255; None if the file states no window"
    ds = pydicom.dcmread(path)
    a = pixel_array(ds, index=frame)
    if ds.PhotometricInterpretation == 'PALETTE COLOR':
        rgb = apply_color_lut(a, ds)
        return rgb.astype(float)[..., :3] @ [.299, .587, .114]*(255/(65535 if rgb.max() > 255 else 255))
    if a.ndim == 3: return a @ [.299, .587, .114]*(255/(2**ds.BitsStored - 1))
    x = np.asarray(apply_modality_lut(a, ds))
    if 'WindowCenter' not in ds and 'VOILUTSequence' not in ds: y = percentiles(x.astype(float))
    else:
        if 'VOILUTSequence' in ds: lo, hi = 0, 2**ds.VOILUTSequence[voi].LUTDescriptor[2] - 1
        elif 'ModalityLUTSequence' in ds: lo, hi = 0, 2**ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        else:
            lo, hi = np.array([0, 2**ds.BitsStored - 1])*float(ds.get('RescaleSlope',
                1)) + float(ds.get('RescaleIntercept',
                                   0)) - ds.PixelRepresentation*2**(ds.BitsStored - 1)*float(ds.get('RescaleSlope', 1))
        y = (np.asarray(apply_voi_lut(x, ds, voi), float) - lo)/(hi - lo)*255
    return 255 - y if ds.PhotometricInterpretation == 'MONOCHROME1' else y

@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('slope,intercept', [(1, 0), (2, -1024), (-1, 4095), (.25, 10)])
@pytest.mark.parametrize('function', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID', 'linear_exact', None])
def test_rescale_then_window_then_invert(tmp_path, photometric, slope, intercept, function):
    x = detector*float(slope) + intercept
    c, w = float(np.quantile(x, .4)), float(np.ptp(x)/3)
    f = save_dicom(tmp_path/'a.dcm', detector, photometric, RescaleSlope=slope, RescaleIntercept=intercept,
                   WindowCenter=round(c, 3), WindowWidth=round(w, 3),
                   **{} if function is None else dict(VOILUTFunction=function))
    a = read_dicom(f)
    if slope > 0:
        # pydicom turns the window around with a negative slope
        np.testing.assert_allclose(a, pydicoms(f), atol=.51)
    if function in ('LINEAR', None):
        expected = window(x, c, w)
        np.testing.assert_allclose(a, 255*(1 - expected if photometric == 'MONOCHROME1' else expected), atol=.6)
    elif slope < 0:
        np.testing.assert_allclose(a, 255 - read_dicom(save_dicom(tmp_path/'b.dcm', detector, photometric,
                                                                  RescaleSlope=1, RescaleIntercept=0,
WindowCenter=round(-(c - intercept), 3), WindowWidth=round(w, 3), VOILUTFunction=function)).astype(float), atol=1)

@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_a_negative_slope_is_an_inversion(tmp_path, photometric):
    "Stored x with slope -1 and intercept 4095 is the same file as 4095 - x stored"
    a, b = (save_dicom(tmp_path/f'{k}.dcm', d, photometric, RescaleSlope=s, RescaleIntercept=i, WindowCenter=1500,
                       WindowWidth=900) for k, d, s, i in (('a', detector, -1, 4095), ('b', 4095 - detector, 1, 0)))
    np.testing.assert_array_equal(read_dicom(a), read_dicom(b))
    np.testing.assert_array_equal(read_dicom(a, voi=None), read_dicom(b, voi=None))

def test_a_window_is_not_stretched(tmp_path):
    "A window wider than the pixels leaves black and white unused, so that images stay comparable"
    a = read_image(save_dicom(tmp_path/'a.dcm', detector//4 + 1000, WindowCenter=2048, WindowWidth=4096))
    assert a.min() == round(1000/4095*255) and a.max() < 130

@pytest.mark.parametrize('tags', [{}, dict(WindowCenter=None, WindowWidth=None), dict(WindowCenter=2000.),
                                  dict(WindowCenter=2000., WindowWidth=0), dict(WindowCenter=2000, WindowWidth=-5),
                                  dict(WindowCenter=2000., WindowWidth=0, VOILUTFunction='SIGMOID'),
                                  dict(WindowCenter=2000., WindowWidth=0, VOILUTFunction='LINEAR_EXACT')])
def test_percentiles_without_a_window_or_with_one_that_shows_nothing(tmp_path, tags):
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', detector, **tags)), percentiles(detector),
                               atol=.6)
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', detector, 'MONOCHROME1', **tags)),
                               255 - percentiles(detector), atol=.6)

def test_percentiles_are_an_argument(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, WindowCenter=100, WindowWidth=50)
    np.testing.assert_allclose(read_dicom(f, voi=None, percentiles=(0, 100)), detector/detector.max()*255, atol=.6)
    np.testing.assert_allclose(read_image(f, voi=None), percentiles(detector), atol=.6)

def test_windows_of_width_one(tmp_path):                                    # black up to the centre - .5, white above
    two = (detector > 700)*np.uint16(3000) + 500 # with more values, such a window shows nothing
    f = save_dicom(tmp_path/'a.dcm', two, WindowCenter=700.5, WindowWidth=1)
    np.testing.assert_array_equal(read_dicom(f), (detector > 700)*255)
    assert read_noted(f)[1] == []

def test_the_choice_of_several_windows(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, WindowCenter=[1000., 3000.], WindowWidth=[500., 100.])
    for voi, c, w in ((0, 1000, 500), (1, 3000, 100)):
        np.testing.assert_allclose(read_image(f, voi=voi), 255*window(detector, c, w), atol=.6)
    for voi in (2, -1):
        with pytest.raises(ValueError, match=f'a.dcm: voi={voi}, but the file states 2 views, counted from 0'):
            read_image(f, voi=voi)
    with pytest.raises(ValueError, match='voi=1, but the file states 0 views'):
        read_image(save_dicom(tmp_path/'a.dcm', detector), voi=1)

def test_one_useless_window_of_two(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, WindowCenter=[1000., 3000.], WindowWidth=[0, 100.])
    np.testing.assert_allclose(read_dicom(f), percentiles(detector), atol=.6)
    np.testing.assert_allclose(read_dicom(f, voi=1), 255*window(detector, 3000, 100), atol=.6)

def table(entries, n=None, first=0, bits=16, vr='US'): # A lookup table
    item = Dataset()
    item.LUTDescriptor = [len(entries) if n is None else n, first, bits]
    item.add_new('LUTData', vr, entries if vr == 'US' else np.asarray(entries, '<u2').tobytes())
    return item

curves = dict(gamma=lambda n, top: (np.linspace(0, 1, n)**2*top).astype(int), inverse=lambda n,
              top: np.linspace(top, 0, n).astype(int))

@pytest.mark.parametrize('curve', curves)
@pytest.mark.parametrize('bits', [10, 12, 16])
@pytest.mark.parametrize('vr', ['US', 'OW'])
@pytest.mark.parametrize('first', [0, 700])
def test_a_lookup_table_for_the_view(tmp_path, curve, bits, vr, first):
    t = table(curves[curve](3000, 2**bits - 1).tolist(), first=first, bits=bits, vr=vr)
    f = save_dicom(tmp_path/'a.dcm', detector, VOILUTSequence=Sequence([t]), WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(read_dicom(f), pydicoms(f), atol=.51)
    np.testing.assert_array_equal(read_dicom(f, voi=1),
        read_dicom(f, voi=None)) # the window stands behind the table, and shows nothing
    with pytest.raises(ValueError, match='states 2 views'): read_dicom(f, voi=2)

def test_a_table_of_8_bit_entries(tmp_path): # more than 256 of them, which pydicom 3.0 counts modulo 256
    for vr in ('US', 'OW'):
        f = save_dicom(tmp_path/'a.dcm', detector, VOILUTSequence=Sequence([table((np.arange(4096)//16).tolist(),
            bits=8, vr=vr)]))
        np.testing.assert_array_equal(read_dicom(f), detector//16)
    packed = Dataset(); packed.LUTDescriptor = [4096, 0, 8]
    packed.add_new('LUTData', 'OW', (np.arange(4096)//16).astype(np.uint8).tobytes())
    np.testing.assert_array_equal(read_dicom(save_dicom(tmp_path/'a.dcm', detector,
                                                        VOILUTSequence=Sequence([packed]))), detector//16)

def test_a_table_that_states_more_bits_than_it_fills(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, VOILUTSequence=Sequence([table(np.arange(4096).tolist(), bits=16)]))
    np.testing.assert_allclose(read_dicom(f), detector/4095*255, atol=.51)

def test_tables_without_use(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, VOILUTSequence=Sequence([table([0]*4096)]))
    np.testing.assert_allclose(read_dicom(f), percentiles(detector), atol=.6)
    f = save_dicom(tmp_path/'a.dcm', detector, VOILUTSequence=Sequence([table([1, 2], n=4096)]))
    np.testing.assert_allclose(read_noted(f)[0], percentiles(detector), atol=.6)
    assert read_noted(f)[1] == ['VOILUTSequence of no use, ignored']

def test_a_full_table_of_65536(tmp_path):
    a = np.linspace(0, 65535, 560).astype(np.uint16).reshape(20, 28)
    f = save_dicom(tmp_path/'a.dcm', a, bits=16, VOILUTSequence=Sequence([table(np.arange(65535, -1, -1).tolist(),
        n=0)]))
    np.testing.assert_allclose(read_dicom(f), 255 - a/65535*255, atol=.51)

@pytest.mark.parametrize('tags', [{}, dict(WindowCenter=900, WindowWidth=700)])
def test_a_lookup_table_for_the_modality(tmp_path, tags):
    f = save_dicom(tmp_path/'a.dcm', detector, ModalityLUTSequence=Sequence([table((np.arange(4096)**2//4096).tolist(),
        vr='OW')]), **tags)
    np.testing.assert_allclose(read_dicom(f), pydicoms(f), atol=.51)

def test_a_signed_start_of_the_table(tmp_path):
    signed = detector.astype(np.int16) - 2000
    f = save_dicom(tmp_path/'a.dcm', signed, bits=16, VOILUTSequence=Sequence([table(np.arange(4096).tolist(),
        first=-2000, bits=12)]))
    np.testing.assert_allclose(read_dicom(f), detector/4095*255, atol=.51)

@pytest.mark.parametrize('syntax', [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
                                    DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize('bits,signed', [(8, False), (12, False), (12, True), (16, False), (16, True)])
def test_transfer_syntaxes(tmp_path, syntax, bits, signed):
    a = np.linspace(-2**(bits - 1) if signed else 0, 2**(bits - 1) - 1 if signed else 2**bits - 1,
                    5040).astype(int).reshape(60, 84)
    f = save_dicom(tmp_path/'a.dcm', a.astype(np.int16 if signed else np.uint16), bits=bits,
                   allocated=8 if bits == 8 else 16, syntax=syntax, WindowCenter=int(a.mean()),
                   WindowWidth=2**(bits - 1))
    assert pydicom.dcmread(f).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_allclose(read_dicom(f), 255*window(a, int(a.mean()), 2**(bits - 1)), atol=.51)
    np.testing.assert_allclose(read_dicom(f), pydicoms(f), atol=.51)

def test_big_endian_tables(tmp_path):
    t = table([0], n=4096); t['LUTData'].VR = 'OW'; t.LUTData = np.arange(4096).astype('>u2').tobytes()
    f = save_dicom(tmp_path/'a.dcm', detector, syntax=ExplicitVRBigEndian, VOILUTSequence=Sequence([t]))
    np.testing.assert_allclose(read_dicom(f), detector/4095*255, atol=.51)

def test_jpeg_in_dicom(tmp_path):
    a, stream = np.linspace(0, 255, 1200).reshape(30, 40).astype(np.uint8), io.BytesIO()
    Image.fromarray(a).save(stream, 'jpeg', quality=95)
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', a, bits=8, allocated=8, WindowCenter=128, WindowWidth=256))
    ds.PixelData, ds.file_meta.TransferSyntaxUID = encapsulate([stream.getvalue()]), JPEGBaseline8Bit
    ds['PixelData'].is_undefined_length = True
    ds.save_as(tmp_path/'a.dcm')
    assert np.abs(read_image(tmp_path/'a.dcm') - a.astype(float)).mean() < 2

@pytest.mark.parametrize('bits,allocated', [(1, 1), (1, 8), (4, 8), (10, 16), (16, 16), (20, 32), (32, 32)])
def test_from_1_to_32_bits(tmp_path, bits, allocated):
    a = np.linspace(0, 2**bits - 1, 560).astype(np.uint64).reshape(20, 28)
    f = save_dicom(tmp_path/'a.dcm', a, bits=bits, allocated=allocated, WindowCenter=2**(bits - 1), WindowWidth=2**bits)
    np.testing.assert_allclose(read_dicom(f), a.astype(float)/(2**bits - 1)*255, atol=.51)
    np.testing.assert_allclose(read_dicom(f, voi=None, percentiles=(0, 100)), a.astype(float)/(2**bits - 1)*255,
                               atol=.51)

@pytest.mark.parametrize('allocated', [32, 64])
def test_floating_point_pixels(tmp_path, allocated):
    a = np.linspace(-.5, 1.5, 560).reshape(20, 28)
    f = save_dicom(tmp_path/'a.dcm', a, allocated=allocated, WindowCenter='0.5', WindowWidth='1',
                   VOILUTFunction='LINEAR_EXACT')
    np.testing.assert_allclose(read_image(f), a.clip(0, 1)*255, atol=.51)
    np.testing.assert_allclose(read_image(f, voi=None), percentiles(a), atol=.51)
    a[2, 3] = np.nan
    with pytest.raises(ValueError, match='a.dcm: pixel values are not finite'):
        read_image(save_dicom(f, a, allocated=allocated))

def test_bits_above_those_stored_do_not_count(tmp_path):                    # overlays used to hide there
    dirty = detector | np.uint16(0x3000)
    np.testing.assert_array_equal(read_dicom(save_dicom(tmp_path/'a.dcm', dirty)),
                                  read_dicom(save_dicom(tmp_path/'b.dcm', detector)))

def test_signed_pixels(tmp_path):
    signed = detector.astype(np.int16) - 2000
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', signed, bits=16)), percentiles(detector),
                               atol=.6)

@pytest.mark.parametrize('tags,inner', [({}, slice(0, None)), (dict(PixelPaddingValue=4000), slice(0, 300)),
                                        (dict(PixelPaddingValue=3900, PixelPaddingRangeLimit=4000), slice(0, 300)),
                                        (dict(PixelPaddingValue=4000, PixelPaddingRangeLimit=3900), slice(0, 300))])
def test_padding_has_no_say_in_the_contrast(tmp_path, tags, inner):
    a = np.concatenate([np.arange(300), np.full(260, 4000)]).astype(np.uint16)
    lo, hi = np.percentile(a[inner], PERCENTILES, method='inverted_cdf')
    expected = ((a.astype(float) - lo)/(hi - lo)).clip(0, 1)*255*((a < 4000) | (not tags))                # and is black
    np.testing.assert_allclose(read_dicom(save_dicom(tmp_path/'a.dcm', a.reshape(20, 28), **tags)).ravel(), expected,
        atol=.51)

def test_signed_padding_and_nothing_but_padding(tmp_path):
    a = np.concatenate([np.arange(300), np.full(260, -2000)]).astype(np.int16).reshape(20, 28)
    b = read_dicom(save_dicom(tmp_path/'a.dcm', a, bits=16, PixelPaddingValue=-2000))
    assert (b[a == -2000] == 0).all() and b[a == 150] == 128
    assert read_dicom(save_dicom(tmp_path/'a.dcm', np.full((3, 4), 7, np.uint16), PixelPaddingValue=7)).shape == (3, 4)

@pytest.mark.parametrize('tags', [{}, dict(PixelPaddingValue=9), dict(WindowCenter=9, WindowWidth=0)])
def test_a_constant_image(tmp_path, tags):
    assert np.ptp(read_image(save_dicom(tmp_path/'a.dcm', detector*0 + 9, **tags))) == 0

def test_a_slope_of_zero(tmp_path):
    a, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector, RescaleSlope=0, RescaleIntercept=5))
    np.testing.assert_allclose(a, percentiles(detector), atol=.6)
    assert notes == ['RescaleSlope of no use, ignored']
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', detector, RescaleIntercept=5)),
                               percentiles(detector), atol=.6)

def test_dicom_without_a_suffix(tmp_path):
    f = save_dicom(tmp_path/'a', detector)
    assert is_dicom(f) and read_image(f).shape == detector.shape

@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_frames(tmp_path, syntax):
    f = save_dicom(tmp_path/'a.dcm', np.kron(np.stack([detector, detector[::-1], detector.T.reshape(20, 28)]),
                                             np.ones((1, 3, 3), int)), NumberOfFrames=3, syntax=syntax)
    with pytest.raises(ValueError, match=r'a.dcm: 3 frames; say which one with frame=0..2'): read_image(f)
    np.testing.assert_array_equal(read_image(f, frame=1), read_image(f, frame=0)[::-1])
    for k in (3, -1):
        with pytest.raises(ValueError, match=f'a.dcm: there is no frame {k}, only 0..2'): read_image(f, frame=k)
    np.testing.assert_array_equal(read_image(save_dicom(tmp_path/'b.dcm', detector), frame=0),
                                  read_image(f, frame=0)[1::3, 1::3])

def nested(**macros): # A functional group
    group = Dataset()
    for k, tags in macros.items():
        item = Dataset()
        for t, v in tags.items(): setattr(item, t, v)
        setattr(group, k, Sequence([item]))
    return group

def test_frames_with_windows_of_their_own(tmp_path):                        # as in enhanced files and tomosynthesis
    f = save_dicom(tmp_path/'a.dcm', np.stack([detector, detector]), NumberOfFrames=2,
        SharedFunctionalGroupsSequence=Sequence([nested(PixelValueTransformationSequence=dict(RescaleSlope=2,
            RescaleIntercept=-100, RescaleType='US'))]),
        PerFrameFunctionalGroupsSequence=Sequence([nested(FrameVOILUTSequence=dict(WindowCenter=c, WindowWidth=w))
                                                   for c, w in ((1000, 500), (3000, 100))]))
    for frame, c, w in ((0, 1000, 500), (1, 3000, 100)):
        np.testing.assert_allclose(read_dicom(f, frame), 255*window(detector*2. - 100, c, w), atol=.6)

palette = dict(RedPaletteColorLookupTableDescriptor=[256, 0, 16], GreenPaletteColorLookupTableDescriptor=[256, 0, 16],
               BluePaletteColorLookupTableDescriptor=[256, 0, 16])

@pytest.mark.parametrize('top', [255, 65535])
def test_palettes_of_either_depth(tmp_path, top):                            # 16 bits, of which some files use 8
    entries = np.linspace(0, top, 256).astype('<u2')
    data = {f'{c}PaletteColorLookupTableData': (entries*(c != 'Blue')).astype('<u2').tobytes()
            for c in ('Red', 'Green', 'Blue')}
    a = np.arange(256).reshape(16, 16)
    f = save_dicom(tmp_path/'a.dcm', a, 'PALETTE COLOR', bits=8, allocated=8, **palette, **data)
    np.testing.assert_allclose(read_image(f), entries.reshape(16, 16)/top*255*(.299 + .587), atol=.6)

@pytest.mark.parametrize('bits,allocated', [(8, 8), (12, 16), (16, 16)])
def test_colour_is_scaled_by_its_bits(tmp_path, bits, allocated):             # not by the brightest pixel
    a = (np.stack([colours, colours]).astype(int)*(2**bits - 1)//255//2).astype(np.uint16)
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', a, 'RGB', bits=bits, allocated=allocated)),
                               np.stack([grey, grey])/2, atol=1.1)

def test_a_frame_of_a_colour_film(tmp_path):
    a = np.stack([np.stack([colours, colours]), np.stack([colours, colours])[:, ::-1]])
    f = save_dicom(tmp_path/'a.dcm', a, 'RGB', bits=8, allocated=8, NumberOfFrames=2)
    np.testing.assert_array_equal(read_image(f, 1), read_image(f, 0)[:, ::-1])


# The real files

BAD = {'JPEG2000-embedded-sequence-delimiter': 'damaged pixels (JPEG 2000 Image Compression)',
       'meta_missing_tsyntax': 'its transfer syntax is not stated',
       'nested_priv_SQ': 'its header has no Rows, Columns, BitsAllocated, PhotometricInterpretation'}
GOOD = ['J2K_pixelrep_mismatch', 'JPGExtended', 'JPGLosslessP14SV1_1s_1f_8b', 'MR_small_jpeg_ls_lossless',
        'OBXXXX1A_rle_2frame', 'RG1_J2KI', 'RG3_J2KI', 'RG3_J2KR',
        'SC_ybr_full_422_uncompressed', 'US1_J2KI', 'emri_small_jpeg_ls_lossless', 'examples_palette',
        'examples_rgb_color', 'image_dfl']

GPL = "no decoder for the transfer syntax {}; pip install 'mmpkd[gpl]' brings one"

def missing_decoder(path):
    "What is said of a file that pydicom's decoders at hand do not know; None if they do"
    ds = pydicom.dcmread(path)
    try: pixel_array(ds, index=0)
    except Exception as e:
        if 'missing dependencies' in str(e) or 'not support' in str(e):
            return GPL.format(ds.file_meta.TransferSyntaxUID.name)

CUT = 'JPEG2000-embedded-sequence-delimiter'

def decoded_anyway(path): # Older decoders of JPEG 2000 do not say that a stream is damaged
    try: return pixel_array(pydicom.dcmread(path)) is not None
    except Exception: return False

def test_every_real_file_is_known(shared_data):
    assert sorted(f.stem for f in (shared_data/'dicom').glob('*.dcm')) == sorted(GOOD + list(BAD))

@pytest.mark.parametrize('name', GOOD)
def test_a_real_file_is_the_picture_of_pydicoms_pipeline(shared_data, name):
    f = shared_data/f'dicom/{name}.dcm'
    if why := missing_decoder(f):
        with pytest.raises(ValueError) as e: read_image(f, 0)
        assert str(e.value) == f'cannot read the image {name}.dcm: {why}'
        return
    ds = pydicom.dcmread(f)
    for k in range(int(ds.get('NumberOfFrames') or 1)):
        a = read_image(f, k)
        assert a.dtype == np.uint8 and a.shape == (ds.Rows, ds.Columns) and a.max() > a.min()
        np.testing.assert_allclose(a, pydicoms(f, k), atol=.51)

def test_a_real_file_with_several_windows(shared_data):
    f = shared_data/'dicom/J2K_pixelrep_mismatch.dcm'
    for k in range(3): np.testing.assert_allclose(read_image(f, voi=k), pydicoms(f, voi=k), atol=.51)
    assert (read_image(f, voi=2) != read_image(f)).any()

@pytest.mark.parametrize('name', BAD)
def test_a_real_file_that_is_named_with_its_reason(shared_data, name):
    if name == CUT and decoded_anyway(shared_data/f'dicom/{name}.dcm'):
        pytest.skip('a decoder that does not see the damage')
    with pytest.raises(ValueError) as e: read_image(shared_data/f'dicom/{name}.dcm')
    assert str(e.value) == f'cannot read the image {name}.dcm: {BAD[name]}'

def test_a_cohort_of_the_real_files_never_stops(shared_data, tmp_path):
    ids = sorted(GOOD + list(BAD))
    c = Cohort(pd.DataFrame(dict(image_id=ids, patient_id=ids, split='train', image=[f'dicom/{k}.dcm' for k in ids],
                                 y=0)), ['y'], root=shared_data)
    bad = unreadable(c).set_index('image_id').reason.to_dict()
    lacking = {k: why for k in GOOD if (why := missing_decoder(shared_data/f'dicom/{k}.dcm'))}
    known = {k: why for k, why in BAD.items() if k != CUT or not decoded_anyway(shared_data/f'dicom/{k}.dcm')}
    assert bad == known | lacking | {'OBXXXX1A_rle_2frame': '2 frames; say which one with frame=0..1',
        'emri_small_jpeg_ls_lossless': '10 frames; say which one with frame=0..9'}
    pixels = cache_pixels(c, 32, tmp_path, skip_unreadable=True)
    assert pixels.unreadable.set_index('image_id').reason.to_dict() == bad and len(pixels) == len(ids) - len(bad)

def mean(a, y0, y1, x0, x1): h, w = a.shape; return a[int(y0*h):int(y1*h), int(x0*w):int(x1*w)].mean()

def test_bone_is_bright(shared_data):
    "A chest: lungs darker than mediastinum and abdomen. A leg: tibia and heel brighter than soft tissue, and air black"
    for name in ('RG1_J2KI', 'RG3_J2KI', 'RG3_J2KR'):
        assert pydicom.dcmread(shared_data/f'dicom/{name}.dcm',
                               stop_before_pixels=True).PhotometricInterpretation == 'MONOCHROME1'
    chest = read_image(shared_data/'dicom/RG1_J2KI.dcm')
    lungs = max(mean(chest, .2, .3, .2, .3), mean(chest, .2, .3, .68, .78))
    assert mean(chest, .4, .5, .48, .54) > lungs + 60 and mean(chest, .88, .95, .2, .3) > lungs + 60
    for name in ('RG3_J2KI', 'RG3_J2KR'):
        leg = read_image(shared_data/f'dicom/{name}.dcm')
        air = mean(leg, .45, .55, .3, .35)
        assert air < 40 and mean(leg, .45, .55, .45, .5) > air + 100 and mean(leg, .85, .92, .4, .5) > air + 150

def test_lossy_and_lossless_look_alike(shared_data):
    a, b = (read_image(shared_data/f'dicom/RG3_{k}.dcm').astype(float) for k in ('J2KI', 'J2KR'))
    assert np.abs(a - b).mean() < 3


# Pictures that are shown otherwise than they are stored. The families: padding, polarity, colours of a stream,
# orientation, depth, transparency, windows that show nothing, decoders that are not there, junk in one element.
# Each is honoured, refused in words, or counted.

PYDICOM = Path(pydicom.__file__).parent/'data/test_files'
ALLOWED = {'window shows nothing, percentiles instead'} # the repairs by which we differ from pydicom here

def test_every_file_of_pydicom_is_what_its_own_pipeline_makes_of_it(recwarn):
    "Rescale, view, polarity, padding to black; or both refuse it; or a repair says why not"
    seen, repaired = 0, []
    for f in sorted(p for p in PYDICOM.rglob('*') if p.is_file() and is_dicom(p)):
        try: theirs = pydicoms(f, 0)
        except Exception: theirs = None
        # its number of frames is '1A', where pydicom stops
        if f.stem == CUT: continue                                           # older decoders make noise of it
        if f.name == 'badVR.dcm': theirs = pydicom.dcmread(f) and None
        try: ours, notes = read_noted(f, 0)
        except ValueError as e:
            assert theirs is None, (f.name, e)
            continue
        seen += 1
        if theirs is None: # its pixels are those of several frames
            assert notes == ['NumberOfFrames of no use, ignored', 'more pixels than its header says, ignored'], f.name
        elif set(notes) & ALLOWED: repaired.append(f.name)
        else: np.testing.assert_allclose(ours, theirs, atol=.51, err_msg=f.name)
    # thumbnails of a head, nearly all bone, in a window for the brain
    assert seen > 60 and repaired == ['17136', '17166', '17196']

def around(kind): # A picture of grey values with a padded margin: pixels, padding, where it is, further tags
    tissue = np.random.default_rng(0).integers(1000, 3000, (48, 64)).astype(np.int32)
    margin = np.zeros((48, 64), bool); margin[:, :20] = True
    low = dict(unsigned=0, signed=-2000, top=4095)[kind]
    tissue[margin] = low
    return tissue - (0 if kind != 'signed' else 500*~margin), low, margin

@pytest.mark.parametrize('kind', ['unsigned', 'signed', 'top'])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('window', [{}, dict(WindowCenter=1500, WindowWidth=2500),
    dict(WindowCenter=1500, WindowWidth=2500, VOILUTFunction='SIGMOID')])
@pytest.mark.parametrize('slope', [1, -1])
def test_padding_is_black(tmp_path, kind, photometric, window, slope):
    a, low, margin = around(kind)
    bits = 16 if kind == 'signed' else 12
    rescale = dict(RescaleSlope=slope, RescaleIntercept=0 if slope == 1 else 3000)
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', a, photometric, bits, PixelPaddingValue=low, **rescale,
        **window))
    alone = read_image(save_dicom(tmp_path/'b.dcm', a[:, 20:], photometric, bits, **rescale, **window))
    assert (x[margin] == 0).all() and notes == []
    np.testing.assert_array_equal(x[:, 20:], alone)                          # and has no say in the contrast

@pytest.mark.parametrize('vr,value,bits,turned',
    [('US', 63536, 16, True), ('SS', -2000, 16, False), ('US', 63536, 13, True), ('US', 6192, 13, True),
    ('UN', 63536, 16, False),
                                                  ('DS', '-2000', 16, False)])
def test_padding_of_signed_pixels_in_either_sign(tmp_path, vr, value, bits, turned):
    a, low, margin = around('signed')
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', a.clip(-2000, 2500), bits=bits))
    data = value.encode() + b' ' if vr == 'DS' else struct.pack('<H', value % 2**16)
    ds[0x00280120] = RawDataElement(pydicom.tag.Tag(0x00280120), vr, len(data), data, 0, False, True)
    ds.save_as(tmp_path/'a.dcm')
    x, notes = read_noted(tmp_path/'a.dcm')
    assert (x[margin] == 0).all() and notes == ['padding written with the other sign']*turned
    np.testing.assert_array_equal(x[:, 20:],
        read_image(save_dicom(tmp_path/'b.dcm', a[:, 20:].clip(-2000, 2500), bits=bits)))

def test_unsigned_padding_written_with_a_sign(tmp_path):
    a = np.random.default_rng(0).integers(1000, 3000, (48, 64)).astype(np.uint16); a[:, :20] = 63536
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', a, 'MONOCHROME1', 16)); ds.add_new(0x00280120, 'SS',
        -2000); ds.save_as(tmp_path/'a.dcm')
    x, notes = read_noted(tmp_path/'a.dcm')
    assert (x[:, :20] == 0).all() and x[:, 20:].std() > 50 and notes == ['padding written with the other sign']
    twelve = a.copy(); twelve[:, :20] = 2096 # -2000 has no place in 12 unsigned bits: 2096 is tissue
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', twelve)); ds.add_new(0x00280120, 'SS',
        -2000); ds.save_as(tmp_path/'a.dcm')
    assert (read_image(tmp_path/'a.dcm')[:, :20] > 100).all()

@pytest.mark.parametrize('ends', [(0, 40), (40, 0), (0, 0), (20, None)])
@pytest.mark.parametrize('syntax', [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_range_of_padding(tmp_path, ends, syntax):
    a, _, margin = around('unsigned')
    a[margin] = np.arange(margin.sum()) % 41
    limit = {} if ends[1] is None else dict(PixelPaddingRangeLimit=ends[1])
    x = read_image(save_dicom(tmp_path/'a.dcm', a, 'MONOCHROME1', syntax=syntax, PixelPaddingValue=ends[0], **limit))
    end = ends[0] if ends[1] is None else ends[1]
    inside = (a >= min(ends[0], end)) & (a <= max(ends[0], end))
    assert (x[inside] == 0).all() and (x[margin & ~inside] > 240).all()

def test_padding_that_is_everything_is_ignored(tmp_path):
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector, PixelPaddingValue=0, PixelPaddingRangeLimit=4095))
    np.testing.assert_allclose(x, percentiles(detector), atol=.6)
    assert notes == ['padding is all of the image, ignored']

def test_padding_of_floating_point_pixels(tmp_path):
    a = np.random.default_rng(0).normal(0, 1, (20, 28)).astype(np.float32); a[:, :9] = -1e6
    x, _ = read_noted(save_dicom(tmp_path/'a.dcm', a, allocated=32, FloatPixelPaddingValue=-1e6))
    assert (x[:, :9] == 0).all() and x[:, 9:].std() > 40

def jpeg_dicom(path, stream, bits=8, photometric='MONOCHROME2', syntax=JPEGBaseline8Bit, shape=None, **tags):
    "A file around a stream of pixels"
    a = np.zeros(shape, np.uint8)
    ds = pydicom.dcmread(save_dicom(path, a, photometric, bits=bits, allocated=8 if bits == 8 else 16, **tags))
    ds.PixelData, ds.file_meta.TransferSyntaxUID = encapsulate([stream]), syntax
    ds['PixelData'].is_undefined_length = True
    ds.save_as(path)
    return path

def jpeg(a, **kwargs): # The bytes of a JPEG
    f = io.BytesIO(); Image.fromarray(a).save(f, 'jpeg', **kwargs)
    return f.getvalue()

@pytest.mark.parametrize('photometric,value', [('MONOCHROME1', 0), ('MONOCHROME1', 255), ('MONOCHROME2', 255)])
def test_padding_shifted_by_a_lossy_codec(tmp_path, photometric, value):
    rng = np.random.default_rng(0)
    a = (128 + 40*np.sin(np.arange(64)/5)[:, None] + rng.normal(0, 8, (64, 96))).clip(60, 200)
    a[:, :32] = value + rng.integers(-2, 3, (64, 32))                        # what the codec makes of it
    x, notes = read_noted(jpeg_dicom(tmp_path/'a.dcm', jpeg(a.clip(0, 255).astype(np.uint8), quality=90),
        photometric=photometric, shape=a.shape, PixelPaddingValue=value))
    assert (x[:, :31] == 0).all() and np.ptp(x[:, 40:]) > 200 and notes == ['padding shifted by lossy compression']

def test_near_padding_is_tissue_where_nothing_was_lost_or_in_the_middle(tmp_path):
    a, _, margin = around('unsigned'); a[10:20, 40:50] = 12
    x = read_image(save_dicom(tmp_path/'a.dcm', a, 'MONOCHROME1', PixelPaddingValue=0))
    assert (x[margin] == 0).all() and (x[10:20, 40:50] == 255).all()          # lossless: to the bit
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', a, 'MONOCHROME1', PixelPaddingValue=0,
        LossyImageCompression='01'))
    assert (x[margin] == 0).all() and (x[10:20, 40:50] == 255).all() and notes == [] # lossy: only what reaches the edge

# Polarity

@pytest.mark.parametrize('photometric,shape,inverted,note', [
    ('MONOCHROME1', None, True, []), ('MONOCHROME1', 'INVERSE', True, []), ('MONOCHROME2', 'IDENTITY', False, []),
        ('MONOCHROME2', '', False, []),
    ('MONOCHROME2', 'INVERSE', True, ['inverted by its PresentationLUTShape']),
        ('MONOCHROME2', ' inverse ', True, ['inverted by its PresentationLUTShape']),
    ('MONOCHROME1', 'IDENTITY', True, ['MONOCHROME1 although PresentationLUTShape is IDENTITY']),
    ('MONOCHROME2', 'BLUE', False, ['PresentationLUTShape of no use, ignored']),
        ('MONOCHROME1', ['INVERSE', 'INVERSE'], True, ['PresentationLUTShape of no use, ignored'])])
@pytest.mark.parametrize('window', [{}, dict(WindowCenter=1000, WindowWidth=3000)])
@pytest.mark.filterwarnings('ignore')
def test_polarity(tmp_path, photometric, shape, inverted, note, window):
    tags = {} if shape is None else dict(PresentationLUTShape=shape)
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector, photometric, **tags, **window))
    plain = read_image(save_dicom(tmp_path/'b.dcm', detector, **window))
    np.testing.assert_array_equal(x, 255 - plain if inverted else plain)
    assert notes == note

def test_a_presentation_lut(tmp_path):
    t = table(np.linspace(4095, 0, 256).astype(int).tolist(), bits=12)
    for photometric in ('MONOCHROME1', 'MONOCHROME2'): # it makes what is seen, whatever the polarity
        x = read_image(save_dicom(tmp_path/'a.dcm', detector, photometric, WindowCenter=2000, WindowWidth=4000,
            PresentationLUTSequence=Sequence([t])))
        np.testing.assert_allclose(x, 255 - 255*window(detector, 2000, 4000), atol=1.1)

# Colours

red = np.zeros((16, 24, 3), np.uint8) + np.uint8([200, 40, 90])
red[:, 12:] = [30, 120, 220]
red_grey = red @ [.299, .587, .114]

def adobe(stream, transform): # With Adobe's marker in place of JFIF's
    at = stream.index(b'JFIF') - 4
    n = int.from_bytes(stream[at+2:at+4], 'big')
    return stream[:at] + b'\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00' + bytes([transform]) + stream[at+2+n:]

def silent(stream): # Without any marker that tells of colours
    at = stream.index(b'JFIF') - 4
    return stream[:at] + stream[at+2+int.from_bytes(stream[at+2:at+4], 'big'):]

def raw_rgb(a): # A stream whose components are red, green and blue
    f = io.BytesIO(); Image.frombytes('YCbCr', a.shape[1::-1], a.tobytes()).save(f, 'jpeg', quality=98, subsampling=0)
    return f.getvalue()

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('header', ['RGB', 'YBR_FULL_422', 'YBR_FULL'])
@pytest.mark.parametrize('stream,says', [(jpeg(red, quality=98, subsampling=0), 'YBR'),
    (adobe(jpeg(red, quality=98, subsampling=0), 1), 'YBR'), (adobe(raw_rgb(red), 0), 'RGB')])
def test_colours_of_a_jpeg_are_those_of_its_stream(tmp_path, header, stream, says):
    x, notes = read_noted(jpeg_dicom(tmp_path/'a.dcm', stream, photometric=header, shape=red.shape))
    assert np.abs(x - red_grey)[:, [2, 20]].max() < 3
    assert ('JPEG colours are not those of the header' in notes) == (header[:3] != says) and 'colour made grey' in notes

@pytest.mark.parametrize('header,stream',
    [('RGB', silent(raw_rgb(red))), ('YBR_FULL', silent(jpeg(red, quality=98, subsampling=0)))])
def test_a_stream_that_says_nothing_is_what_the_header_says(tmp_path, header, stream):
    x, notes = read_noted(jpeg_dicom(tmp_path/'a.dcm', stream, photometric=header, shape=red.shape))
    assert np.abs(x - red_grey)[:, [2, 20]].max() < 3 and notes == ['colour made grey']

# A stream that contradicts its header. Some decoders end the whole program at it, so it is refused before; where two
# decoders can read an encoding, the one that does so comes last.

def j2k(a): # A bare stream of JPEG 2000
    f = io.BytesIO(); Image.fromarray(a).save(f, 'jpeg2000', no_jp2=True)
    return f.getvalue()

@pytest.mark.parametrize('stream,syntax', [(jpeg, JPEGBaseline8Bit), (j2k, JPEG2000Lossless)])
@pytest.mark.parametrize('header,what', [(dict(Rows=36), 'rows'), (dict(Rows=48, Columns=32), 'rows, columns'),
    (dict(SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation='YBR_ICT'), 'colours'),
    (dict(PhotometricInterpretation='YBR_FULL'), 'photometric interpretation')])
def test_a_stream_that_contradicts_its_header(tmp_path, stream, syntax, header, what):
    f = jpeg_dicom(tmp_path/'a.dcm', stream(shown), syntax=syntax, shape=shown.shape)
    np.testing.assert_allclose(read_image(f), percentiles(shown), atol=2)
    if syntax == JPEGBaseline8Bit and what == 'colours': return                # the picture is grey, and noted
    f = jpeg_dicom(tmp_path/'a.dcm', stream(shown), syntax=syntax, shape=shown.shape, **header)
    with pytest.raises(ValueError, match=f'a.dcm: its header and its JPEG .* stream differ in their {what}$'):
        read_image(f)

@pytest.mark.parametrize('stream,photometric,shape', [(jpeg(red), 'MONOCHROME2', red.shape[:2]),
    (j2k(np.kron(red, np.ones((4, 4, 1), np.uint8))), 'MONOCHROME2', (64, 96))])
def test_a_colour_stream_under_a_grey_header(tmp_path, stream, photometric, shape):
    syntax = JPEGBaseline8Bit if stream[:2] == b'\xff\xd8' else JPEG2000Lossless
    with pytest.raises(ValueError, match='differ in their colours'):
        read_image(jpeg_dicom(tmp_path/'a.dcm', stream, photometric=photometric, syntax=syntax, shape=shape))

def test_bits_of_a_stream_count(tmp_path):
    x, notes = read_noted(jpeg_dicom(tmp_path/'a.dcm', jpeg(shown), shape=shown.shape, BitsStored=4))
    np.testing.assert_allclose(x, percentiles(shown), atol=2)
    assert notes == ['BitsStored of no use, ignored']
    ds = pydicom.dcmread(tmp_path/'a.dcm')
    ds.BitsAllocated = 32
    ds.save_as(tmp_path/'a.dcm')
    with pytest.raises(ValueError, match='differ in their bits'): read_image(tmp_path/'a.dcm')

def test_no_stream_at_all(tmp_path):
    f = jpeg_dicom(tmp_path/'a.dcm', bytes(range(200)), shape=shown.shape)
    with pytest.raises(ValueError, match='damaged pixels'): read_image(f)

def test_frames_with_an_extended_offset_table(tmp_path):
    ds = pydicom.dcmread(jpeg_dicom(tmp_path/'a.dcm', jpeg(shown), shape=shown.shape, NumberOfFrames=2))
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(
        [jpeg(shown), jpeg(255 - shown)])
    ds.save_as(tmp_path/'a.dcm')
    np.testing.assert_allclose(read_image(tmp_path/'a.dcm', frame=1), percentiles(255 - shown), atol=3)

def test_gdcm_is_asked_where_it_is_alone():
    uids = JPEG2000Lossless, JPEGBaseline8Bit, pydicom.uid.JPEGLSLossless, ExplicitVRLittleEndian, RLELossless
    found = [image_files._decoders(u) for u in uids]
    assert all('gdcm' not in d or d == ['gdcm'] for d in found) and all(found)

def test_a_decoder_that_panics(tmp_path, monkeypatch): # one written in Rust raises no Exception
    class PanicException(BaseException): "As its binding names it"
    def panic(*a, **k): raise PanicException('index out of bounds')
    monkeypatch.setattr(image_files, 'pixel_array', panic)
    with pytest.raises(ValueError, match='damaged pixels'): read_image(save_dicom(tmp_path/'a.dcm', detector))
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(image_files, 'pixel_array', stop)
    with pytest.raises(KeyboardInterrupt): read_image(tmp_path/'a.dcm')

@pytest.mark.parametrize('shape,extra,counted', [((20, 28), 0, False), ((20, 28), 2, True), ((20, 28), 500, True),
    ((5, 7), 0, False), ((5, 7), 1, True)])
def test_more_pixels_than_the_header_says(tmp_path, shape, extra, counted):
    a = np.arange(np.prod(shape)).reshape(shape) % 251
    bits = 8 if a.size % 2 else 16
    f = save_dicom(tmp_path/'a.dcm', a, bits=bits, allocated=bits)
    ds = pydicom.dcmread(f)
    ds.PixelData += b'\1'*extra + b'\0'*(extra % 2)
    ds.save_as(f)
    x, notes = read_noted(f)
    np.testing.assert_allclose(x, percentiles(a.astype(float)), atol=.51)
    assert notes == ['more pixels than its header says, ignored']*counted

def test_jpeg_2000_is_transformed_once(tmp_path):
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', np.kron(red, np.ones((4, 4, 1), np.uint8)), 'RGB', bits=8,
        allocated=8))
    ds.PhotometricInterpretation = 'YBR_RCT'
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    for header, note in (('YBR_RCT', []), ('YBR_FULL', ['JPEG colours are not those of the header'])):
        ds.PhotometricInterpretation = header
        ds.save_as(tmp_path/'a.dcm')
        x, notes = read_noted(tmp_path/'a.dcm')
        np.testing.assert_allclose(x[::4, ::4], red_grey, atol=.51)
        assert notes == note + ['colour made grey']

@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif', 'webp', 'bmp', 'gif', 'dcm'])
def test_only_real_colour_is_counted(tmp_path, suffix):
    for a, coloured in ((red, True), (np.stack([red[..., 0]]*3, -1), False)):
        if suffix == 'dcm': save_dicom(tmp_path/'a.dcm', a, 'RGB', bits=8, allocated=8)
        else: Image.fromarray(a).save(tmp_path/f'a.{suffix}', **dict(lossless=True) if suffix == 'webp' else {})
        assert read_noted(tmp_path/f'a.{suffix}')[1] == ['colour made grey']*coloured

def test_a_coloured_mark_on_a_grey_picture_is_counted(tmp_path):              # calipers, a logo
    a = np.stack([ramp]*3, -1).copy(); a[3:5, 7:12] = [255, 255, 0]
    Image.fromarray(a).save(tmp_path/'a.png')
    assert read_noted(tmp_path/'a.png')[1] == ['colour made grey']

# Orientation

TURNED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
          # how a picture is stored that is shown upright
          6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1)}
shown = np.kron(np.array([[0, 90, 180], [250, 40, 130]], np.uint8), np.ones((16, 16), np.uint8))

def save_turned(path, a, turned, tiff=False, **kwargs):
    exif = Image.Exif(); exif[0x0112] = turned
    Image.fromarray(np.ascontiguousarray(a)).save(path,
        **(dict(tiffinfo={0x0112: turned}) if tiff else dict(exif=exif)), **kwargs)
    return path

@pytest.mark.parametrize('turned', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'webp'])
def test_a_picture_is_shown_upright(tmp_path, turned, suffix):
    f = save_turned(tmp_path/f'a.{suffix}', TURNED[turned](shown), turned, suffix == 'tif',
        **dict(quality=95) if suffix == 'jpg' else dict(lossless=True) if suffix == 'webp' else {})
    x, notes = read_noted(f)
    assert x.shape == shown.shape and np.abs(x.astype(int) - shown).max() <= (6 if suffix == 'jpg' else 0)
    assert notes == ['turned by its EXIF orientation']*(turned > 1) and image_files._size(f) == shown.shape

@pytest.mark.parametrize('turned', range(1, 9))
@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_so_are_16_bits(tmp_path, turned, suffix):
    f = save_turned(tmp_path/f'a.{suffix}', TURNED[turned](shown.astype(np.uint16)*200), turned, suffix == 'tif')
    np.testing.assert_allclose(read_image(f), percentiles(shown), atol=.51)

@pytest.mark.parametrize('turned', [3, 6])
def test_so_are_masks(tmp_path, turned):
    m = np.zeros((20, 32), np.uint8); m[2:9, 4:20] = 255
    f = save_turned(tmp_path/'m.png', TURNED[turned](m), turned)
    np.testing.assert_array_equal(read_mask(f, (20, 32)), m > 0)
    Image.fromarray(np.kron(m, np.ones((2, 2), np.uint8))).save(tmp_path/'i.png')
    save_turned(tmp_path/'i.jpg', TURNED[turned](np.kron(m, np.ones((2, 2), np.uint8))), turned)
    for image in ('i.png', 'i.jpg'):
        r = mask_rois(pd.DataFrame(dict(image_id=['a'], label='y', image=image, mask='m.png')), tmp_path)
        assert r[BOX].to_numpy().tolist() == [[8, 4, 40, 18]]

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def test_an_orientation_behind_the_pixels(tmp_path):                         # where PNG allows it
    Image.fromarray(np.rot90(shown)).save(tmp_path/'a.png')
    exif = Image.Exif(); exif[0x0112] = 6
    data, note = (tmp_path/'a.png').read_bytes(), exif.tobytes().removeprefix(b'Exif\0\0')
    (tmp_path/'a.png').write_bytes(data[:-12] + chunk(b'eXIf', note) + data[-12:])
    x, notes = read_noted(tmp_path/'a.png')
    np.testing.assert_array_equal(x, shown)
    assert notes == ['turned by its EXIF orientation'] and image_files._size(tmp_path/'a.png') == shown.shape

@pytest.mark.parametrize('turned', [0, 9, 77])
def test_a_senseless_orientation_costs_itself(tmp_path, turned):
    save_turned(tmp_path/'a.png', shown, turned)
    x, notes = read_noted(tmp_path/'a.png')
    np.testing.assert_array_equal(x, shown)
    assert notes == ['EXIF orientation of no use, ignored']

def test_a_damaged_exif_costs_itself(tmp_path):
    data = jpeg(shown)
    (tmp_path/'a.jpg').write_bytes(data[:2] + b'\xff\xe1\x00\x14Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12\0\0' + data[2:])
    np.testing.assert_array_equal(read_image(tmp_path/'a.jpg'), np.asarray(Image.open(io.BytesIO(data))))

# Bits that are no part of the stored values. The family: padding that only the allocated bits can hold, an overlay,
# a sign that was not extended, a BitsStored that is too small. Padding is black, a sign is a sign, the rest is counted.

@pytest.mark.parametrize('signed,vr,value,written', [
    (0, 'US', 65535, 65535), (0, 'SS', 65535, -1), (0, 'US', 4096, 4096),
    (1, 'SS', -32768, -32768), (1, 'US', -32768, 32768), (1, 'SS', 9999, 9999)])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_padding_beyond_the_bits_stored(tmp_path, signed, vr, value, written, photometric):
    plain = detector.astype(np.int64) - 2000*signed
    a = plain.copy()
    a[:, :7] = value
    tags = dict(PixelRepresentation=signed, PixelData=(a % 2**16).astype('<u2').tobytes())
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', plain, photometric, **tags))
    ds.add_new('PixelPaddingValue', vr, written)
    ds.save_as(tmp_path/'a.dcm')
    x, notes = read_noted(tmp_path/'a.dcm')
    alone = read_dicom(save_dicom(tmp_path/'b.dcm', plain[:, 7:], photometric, PixelRepresentation=signed))
    np.testing.assert_array_equal(x, np.pad(alone, ((0, 0), (7, 0))))
    assert notes == ['padding written with the other sign']*(written != value)

@pytest.mark.parametrize('bits,signed,raw,shown_as,counted', [
    (10, 0, detector, detector % 1024, True), (12, 0, detector | np.uint16(0x8000), detector, True),
    (12, 1, detector, (detector.astype(int) + 2048) % 4096 - 2048, False),
    (12, 1, detector.astype(int) - 2000, detector.astype(int) - 2000, False),
    (12, 1, detector | np.uint16(0x4000), (detector.astype(int) + 2048) % 4096 - 2048, True)])
def test_bits_above_those_stored_are_counted(tmp_path, bits, signed, raw, shown_as, counted):
    tags = dict(PixelRepresentation=signed, PixelData=(raw.astype(int) % 2**16).astype('<u2').tobytes())
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector, bits=bits, **tags))
    np.testing.assert_allclose(x, percentiles(shown_as.astype(float)), atol=.51)
    assert notes == ['bits above BitsStored ignored']*counted

@pytest.mark.parametrize('allocated,kind', [(32, 'Float'), (64, 'DoubleFloat')])
@pytest.mark.parametrize('limit', [None, -1.])
def test_padding_of_either_precision(tmp_path, allocated, kind, limit):
    a = detector/4095
    a[:, :7] = -9e5 if limit is None else np.linspace(-9e5, -1, 140).reshape(20, 7)
    tags = {f'{kind}PixelPaddingValue': -9e5} | ({f'{kind}PixelPaddingRangeLimit': limit} if limit else {})
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', a, bits=allocated, allocated=allocated, **tags))
    np.testing.assert_allclose(x[:, 7:], percentiles(detector[:, 7:].astype(float)), atol=.51)
    assert not x[:, :7].any() and notes == []

# Depth, white and transparency

def tiff(path, a, photometric, bits, fmt=1): # A plain TIFF
    h, w = a.shape[:2]
    data = np.packbits(a, axis=1).tobytes() if bits == 1 else a.astype(a.dtype.newbyteorder('<')).tobytes()
    tags = [(256, 3, w), (257, 3, h), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1),
        (278, 3, h), (279, 4, len(data)), (339, 3, fmt)]
    ifd = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', t, k, 1, v) for t, k, v in tags) + b'\0\0\0\0'
    Path(path).write_bytes(b'II*\0' + struct.pack('<I', 8 + len(data)) + data + ifd)
    return path

@pytest.mark.parametrize('bits,dtype,fmt,top',
    [(1, 'u1', 1, 1), (8, 'u1', 1, 255), (16, 'u2', 1, 65535), (32, 'f4', 3, 1)])
def test_white_is_zero(tmp_path, bits, dtype, fmt, top):
    g = ((shown > 100) if bits == 1 else shown/255*top).astype(dtype)
    black, white = tiff(tmp_path/'b.tif', g, 1, bits, fmt), tiff(tmp_path/'w.tif', (top - g).astype(dtype), 0, bits,
        fmt)
    expected = (shown > 100)*255 if bits == 1 else shown if bits == 8 else percentiles(shown)
    for f in (black, white): np.testing.assert_allclose(read_image(f), expected, atol=1.01)
    m = np.zeros((20, 32), dtype); m[2:9, 4:20] = top
    np.testing.assert_array_equal(read_mask(tiff(tmp_path/'m.tif', (top - m).astype(dtype), 0, bits, fmt)), m > 0)

@pytest.mark.parametrize('bits,dtype,fmt,least,most', [(8, 'i1', 2, -128, 127), (32, 'u4', 1, 0, 2**32 - 1),
    (16, 'i2', 2, -2**15, 2**15 - 1), (32, 'i4', 2, -2**31, 2**31 - 1), (16, 'u2', 1, 0, 65535)])
def test_integers_of_a_tiff_keep_their_sign(tmp_path, bits, dtype, fmt, least, most):
    g = np.linspace(least, most, 1200).round().astype(dtype).reshape(30, 40)
    x = read_image(tiff(tmp_path/'a.tif', g, 1, bits, fmt))
    np.testing.assert_allclose(x, percentiles(g.astype(float)), atol=1)

@pytest.mark.parametrize('compression', ['raw', 'tiff_lzw', 'packbits', 'tiff_deflate', 'group3', 'group4'])
@pytest.mark.parametrize('mode', ['1', 'L', 'I;16'])
def test_compressed_tiff(tmp_path, compression, mode):
    if compression.startswith('group') and mode != '1': pytest.skip('of one bit only')
    a = (shown > 100)*np.uint8(255) if mode == '1' else shown if mode == 'L' else shown.astype(np.uint16)*200
    Image.fromarray(a).convert('1').save(tmp_path/'a.tif',
        compression=compression) if mode == '1' else Image.fromarray(a).save(tmp_path/'a.tif', compression=compression)
    np.testing.assert_allclose(read_image(tmp_path/'a.tif'), percentiles(shown) if mode == 'I;16' else a, atol=.51)

def png16(path, a): # 16 bits a channel, which PIL does not write
    h, w, n = a.shape
    raw = b''.join(b'\0' + r.astype('>u2').tobytes() for r in a)
    head = struct.pack('>IIBBBBB', w, h, 16, {2: 4, 3: 2, 4: 6}[n], 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND',
        b''))
    return path

@pytest.mark.parametrize('channels', [2, 3, 4])
@pytest.mark.parametrize('top', [4095, 65535])
def test_16_bits_a_colour(tmp_path, channels, top):
    grey16 = np.linspace(0, top, 1200).astype(np.uint16).reshape(30, 40)
    planes = [grey16]*(1 if channels == 2 else 3) + [np.full_like(grey16, 65535)]*(channels in (2, 4))
    x, notes = read_noted(png16(tmp_path/'a.png', np.stack(planes, -1)))
    np.testing.assert_allclose(x, percentiles(grey16), atol=1)
    assert notes == [] and len(np.unique(x)) > 250
    if channels == 3:
        planes[0] = grey16//3
        x, notes = read_noted(png16(tmp_path/'a.png', np.stack(planes, -1)))
        assert notes == ['colour made grey'] and x.max() == 255

@pytest.mark.parametrize('make', [lambda f: tiff_rgb16(f.with_suffix('.tif')), lambda f: ppm16(f.with_suffix('.ppm'))])
def test_deeper_colours_are_refused_in_words(tmp_path, make):
    with pytest.raises(ValueError, match='more than 8 bits a colour, of which only 8 can be read; save it as'):
        read_image(make(tmp_path/'a'))

def tiff_rgb16(path):
    a = np.zeros((6, 8, 3), '<u2') + 900
    tags = [(256, 3, 1, 8), (257, 3, 1, 6), (258, 3, 3, 8 + 288), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
        (277, 3, 1, 3), (278, 3, 1, 6), (279, 4, 1, 288)]
    ifd = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', *t) for t in tags) + b'\0\0\0\0'
    path.write_bytes(b'II*\0' + struct.pack('<I', 8 + 288 + 6) + a.tobytes() + struct.pack('<3H', 16, 16, 16) + ifd)
    return path

def ppm16(path):
    path.write_bytes(b'P6\n8 6\n65535\n' + (np.zeros((6, 8, 3), '>u2') + 900).tobytes())
    return path

def test_transparency(tmp_path):
    clear = np.where(np.arange(shown.size).reshape(shown.shape) % 48 < 8, 0, 255).astype(np.uint8) # a strip at the left
    even = np.full_like(clear, 128)
    cases = [(np.stack([shown, clear], -1), shown*(clear > 0), ['transparent parts made black']),
        (np.stack([shown, even], -1), shown, []),
             (np.stack([shown*0, shown], -1), shown, ['picture taken from its transparency']),
             (np.stack([shown*0 + 255]*3 + [shown], -1), shown, ['picture taken from its transparency']),
             (np.stack([shown]*3 + [clear], -1), shown*(clear > 0), ['transparent parts made black'])]
    for a, expected, note in cases:
        Image.fromarray(a).save(tmp_path/'a.png')
        x, notes = read_noted(tmp_path/'a.png')
        np.testing.assert_array_equal(x, expected)
        assert notes == note

def test_a_transparent_colour(tmp_path): # one value stands for nothing: grey, palette, RGB
    expected = shown*(shown != 180)
    Image.fromarray(shown).save(tmp_path/'a.png', transparency=180)
    Image.fromarray(shown).convert('RGB').save(tmp_path/'b.png', transparency=(180, 180, 180))
    p = Image.fromarray(shown).convert('P')
    p.putpalette([k for k in range(256) for _ in range(3)])
    p.save(tmp_path/'c.png', transparency=180)
    for k in 'abc':
        x, notes = read_noted(tmp_path/f'{k}.png')
        np.testing.assert_array_equal(x, expected)
        assert notes == ['transparent parts made black']

def png_bits(path, a, bits, colour, *chunks): # A PNG of any depth with further chunks; a: rows of samples
    if bits == 16: rows = [r.astype('>u2').tobytes() for r in a]
    else: rows = [np.packbits(np.unpackbits(r.astype(np.uint8)[:, None], axis=1)[:, -bits:]).tobytes() for r in a]
    head = struct.pack('>IIBBBBB', a.shape[1]//(3 if colour == 2 else 1), len(a), bits, colour, 0, 0, 0)
    parts = [(b'IHDR', head), *chunks, (b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows))), (b'IEND', b'')]
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(k, v) for k, v in parts))
    return path

@pytest.mark.parametrize('bits,colour', [(2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_a_transparent_value_of_any_depth(tmp_path, bits, colour): # a white background that is not there
    a = np.arange(320).reshape(10, 32)*(2**bits - 2)//319
    a[:, 20:] = 2**bits - 1
    n = 3 if colour else 1
    key = struct.pack(f'>{n}H', *[2**bits - 1]*n)
    f = png_bits(tmp_path/'a.png', np.repeat(a, n, axis=1), bits, colour, (b'tRNS', key))
    x, notes = read_noted(f)
    expected = np.where(np.arange(32) < 20, a, 0)
    top = np.percentile(expected, 99.5, method='inverted_cdf') if bits == 16 else 2**bits - 1
    np.testing.assert_allclose(x, (expected/top).clip(0, 1)*255, atol=1)
    assert notes == ['transparent parts made black']

@pytest.mark.parametrize('chunks,note', [([(b'gAMA', struct.pack('>I', 100000))], ['gamma not applied']),
    ([(b'gAMA', struct.pack('>I', 45455))], []), ([(b'gAMA', struct.pack('>I', 0))], []),
    ([(b'sRGB', b'\0'), (b'gAMA', struct.pack('>I', 100000))], []),
    ([(b'pHYs', struct.pack('>IIB', 32, 48, 0))], []),                         # MATLAB writes the size of the image
    ([(b'pHYs', struct.pack('>IIB', 3000, 5000, 1))], ['pixels are not square']),
    ([(b'pHYs', struct.pack('>IIB', 3000, 3000, 1))], []), ([(b'pHYs', struct.pack('>IIB', 0, 5, 1))], [])])
def test_a_stretch_that_is_not_honoured_is_counted(tmp_path, chunks, note):
    x, notes = read_noted(png_bits(tmp_path/'a.png', shown, 8, 0, *chunks))
    np.testing.assert_array_equal(x, shown)
    assert notes == note

@pytest.mark.parametrize('suffix', ['jpg', 'tif', 'bmp'])
def test_pixels_that_are_not_square(tmp_path, suffix):
    for dpi in ((100, 100), (100, 200)):
        Image.fromarray(shown).save(tmp_path/f'a.{suffix}', dpi=dpi)
        assert read_noted(tmp_path/f'a.{suffix}')[1] == ['pixels are not square']*(dpi[0] != dpi[1])

def test_print_colours_that_may_be_inverted_are_refused(tmp_path):
    Image.fromarray(red).convert('CMYK').save(tmp_path/'a.jpg')
    data = (tmp_path/'a.jpg').read_bytes()
    at = data.find(b'\xff\xee')                                              # what Adobe's programs write, and PIL
    (tmp_path/'a.jpg').write_bytes(data[:at] + data[at + 2 + int.from_bytes(data[at+2:at+4], 'big'):])
    with pytest.raises(ValueError, match='a.jpg: CMYK colours whose JPEG does not say whether they are inverted'):
        read_image(tmp_path/'a.jpg')

@pytest.mark.parametrize('noise', [0, 5, 60])
def test_grey_saved_in_colour_is_pils_luminance(tmp_path, noise):
    a = np.repeat(shown[..., None], 3, 2)
    a[..., 1] = (a[..., 1].astype(int) + noise*(np.arange(a.shape[1]) % 2)).clip(0, 255)
    Image.fromarray(a).save(tmp_path/'a.png')
    x, notes = read_noted(tmp_path/'a.png')
    np.testing.assert_array_equal(x, np.asarray(Image.fromarray(a).convert('L')))
    assert notes == ['colour made grey']*(noise > 8)

def test_a_palette_of_one_colour(tmp_path):
    p = Image.fromarray((shown > 100).astype(np.uint8))
    p = p.convert('P')
    p.putpalette([0]*768)
    p.save(tmp_path/'a.png')
    np.testing.assert_array_equal(read_mask(tmp_path/'a.png'), shown > 100)

@pytest.mark.parametrize('save', [dict(format='gif', save_all=True), dict(format='png', save_all=True),
    dict(format='webp', save_all=True, lossless=True), dict(format='tiff', save_all=True)])
def test_films_and_pages_need_a_frame(tmp_path, save):
    Image.fromarray(shown).save(tmp_path/'a', append_images=[Image.fromarray(255 - shown)], **save)
    with pytest.raises(ValueError, match='2 frames; say which one'): read_image(tmp_path/'a')
    np.testing.assert_allclose(read_image(tmp_path/'a', frame=1), 255 - shown, atol=1)

def test_the_first_picture_of_a_camera_is_the_picture(tmp_path):              # a JPEG with a preview behind it
    Image.fromarray(shown).save(tmp_path/'a.jpg', 'MPO', save_all=True,
        append_images=[Image.fromarray(shown[::2, ::2])], quality=95)
    x, notes = read_noted(tmp_path/'a.jpg')
    assert x.shape == shown.shape and notes == ['first picture of several']

@pytest.mark.parametrize('mode', ['CMYK', 'YCbCr'])
def test_colours_of_print_and_film(tmp_path, mode):
    a = np.kron(red, np.ones((4, 4, 1), np.uint8))
    Image.fromarray(a).convert(mode).save(tmp_path/'a.jpg', quality=98)
    x, notes = read_noted(tmp_path/'a.jpg')
    assert np.abs(x[::4, ::4] - red_grey)[:, [2, 20]].max() < 4 and notes == ['colour made grey']

# Windows that show nothing

@pytest.mark.parametrize('tags', [dict(WindowCenter=40, WindowWidth=400), dict(WindowCenter=60000, WindowWidth=100),
    dict(WindowCenter=2047, WindowWidth=1),
                                  dict(WindowCenter=2047, WindowWidth=9), dict(WindowCenter=2047, WindowWidth=2e7),
                                      dict(WindowCenter=9e5, WindowWidth=10, VOILUTFunction='SIGMOID'),
                                  dict(WindowCenter=2047, WindowWidth=0),
                                      dict(WindowCenter=[40, 2000], WindowWidth=[80, 4000])])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_a_window_that_shows_nothing_gives_way(tmp_path, tags, photometric):
    a = np.random.default_rng(0).integers(500, 3000, (64, 64)).astype(np.uint16)
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', a, photometric, **tags))
    np.testing.assert_array_equal(x, read_dicom(save_dicom(tmp_path/'b.dcm', a, photometric)))
    assert notes == ['window shows nothing, percentiles instead']

@pytest.mark.parametrize('a,c,w', [(np.random.default_rng(0).integers(500, 3000, (64, 64)), 1700, 60),
    (np.eye(64)*1000 + 50, 500, 900), (np.arange(4096).reshape(64, 64) % 9 + 1000, 1004, 40),
                                   ((np.arange(4096).reshape(64, 64) > 4090)*2000, 1000, 5000),
                                       (np.full((64, 64), 700), 40, 80)])
def test_a_window_that_shows_little_is_kept(tmp_path, a, c, w):
    "A narrow one, two grey values, a wide one, a small spot, a picture that is flat anyway"
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', a.astype(np.uint16), WindowCenter=c, WindowWidth=w))
    np.testing.assert_allclose(x, 255*window(a, c, w), atol=.51)
    assert notes == []

def test_a_view_by_a_table_that_shows_nothing_gives_way(tmp_path):
    t = table([0]*3500 + list(range(596)), bits=12)
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector//2, VOILUTSequence=Sequence([t])))
    np.testing.assert_allclose(x, percentiles(detector//2), atol=.6)
    assert notes == ['window shows nothing, percentiles instead']

# Decoders that are not there

@pytest.mark.parametrize('syntax', [pydicom.uid.JPEGExtended12Bit, pydicom.uid.JPEGLossless,
    pydicom.uid.JPEGLosslessSV1, pydicom.uid.JPEGLSLossless])
def test_a_missing_decoder_is_named_with_its_extra(tmp_path, monkeypatch, syntax):
    decoder, real = image_files.get_decoder(syntax), image_files.get_decoder
    class Without:
        is_available, missing_dependencies = False, ['pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1']
    monkeypatch.setattr(image_files, 'get_decoder', lambda uid: Without if uid == syntax else real(uid))
    f = jpeg_dicom(tmp_path/'a.dcm', jpeg(shown), bits=12, syntax=syntax, shape=shown.shape)
    with pytest.raises(ValueError) as e: read_image(f)
    assert str(e.value) == f'cannot read the image a.dcm: {GPL.format(syntax.name)}' and decoder.UID == syntax

def test_12_bits_that_the_free_decoders_refuse_are_not_damage(tmp_path, monkeypatch):
    class Free:
        available_plugins = 'gdcm', 'pillow'
        is_available, missing_dependencies = True, ['pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1']
    def refuse(*a, **k):
        raise RuntimeError("pillow: Pillow does not support 'JPEG Extended' for samples with 12-bit precision")
    monkeypatch.setattr(image_files, 'get_decoder', lambda uid: Free)
    monkeypatch.setattr(image_files, 'pixel_array', refuse)
    f = jpeg_dicom(tmp_path/'a.dcm', jpeg(shown), bits=12, syntax=pydicom.uid.JPEGExtended12Bit, shape=shown.shape)
    with pytest.raises(ValueError, match=r"no decoder for .* JPEG Extended .*pip install 'mmpkd\[gpl\]' brings one"):
        read_image(f)
    Free.missing_dependencies = []                                           # with that decoder there, it is the file
    with pytest.raises(ValueError, match='damaged pixels .JPEG Extended'): read_image(f)

# Junk in one element

def spoiled(path, keyword, value, vr='DS', **tags): # A file in which one element says that, whatever it should say
    ds = pydicom.dcmread(save_dicom(path, detector, **tags))
    value, tag = value.encode() if isinstance(value, str) else value, pydicom.tag.Tag(keyword)
    if vr in ('DS', 'CS', 'LO', 'UN'): value += b' '*(len(value) % 2)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    ds.save_as(path)
    return path

JUNK = ['abc', '1,5', '1\\2', '', 'nan', 'inf', '1e', '0x10', '1_0', '--', '1.2.3', ' ', '\\', '\x00\x00']
BROKEN = [b'', b'\1\0\2\0', b'\1', b'\1\2\3']                              # nothing, two numbers, half of one
ELSE = dict(WindowWidth=dict(WindowCenter=2000), WindowCenter=dict(WindowWidth=900),
    PixelPaddingRangeLimit=dict(PixelPaddingValue=4090))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('keyword,kinds',
    [*((k, 'DS LO UN') for k in ('RescaleSlope', 'RescaleIntercept', 'WindowWidth', 'WindowCenter', 'NumberOfFrames')),
    *((k, 'DS US') for k in ('PixelPaddingValue', 'PixelPaddingRangeLimit', 'PixelRepresentation', 'BitsStored',
        'SamplesPerPixel', 'HighBit'))])
def test_junk_in_one_number_costs_that_number(tmp_path, keyword, kinds):
    cases = [(junk, vr) for vr in kinds.split() for junk in (BROKEN if vr == 'US' else JUNK)]
    for junk, vr in cases:
        if keyword.startswith('Window') and junk == '1\\2': continue         # the second view of one
        x, notes = read_noted(spoiled(tmp_path/'a.dcm', keyword, junk, vr, **ELSE.get(keyword, {})))
        np.testing.assert_allclose(x, percentiles(detector), atol=.6, err_msg=f'{junk!r} {vr}')
        assert set(notes) - {'window shows nothing, percentiles instead'} == {f'{keyword} of no use, ignored'}, (junk,
            vr, notes)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('keyword', ['Rows', 'Columns', 'BitsAllocated'])
def test_junk_where_nothing_can_be_known_is_refused_in_words(tmp_path, keyword):
    for junk in BROKEN:
        with pytest.raises(ValueError, match=f'a.dcm: its header has no {keyword}'):
            read_image(spoiled(tmp_path/'a.dcm', keyword, junk, 'US'))

def test_two_centres_and_one_width(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', detector, WindowCenter=[2000, 700], WindowWidth=4000)
    np.testing.assert_allclose(read_image(f), 255*window(detector, 2000, 4000), atol=.51)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('keyword,word', [('VOILUTFunction', 'CURVED'), ('VOILUTFunction', 'LINEAR\\SIGMOID'),
    ('PresentationLUTShape', '3')])
def test_junk_in_one_word_costs_that_word(tmp_path, keyword, word):
    x, notes = read_noted(spoiled(tmp_path/'a.dcm', keyword, word, 'CS', WindowCenter=2000, WindowWidth=4000))
    np.testing.assert_allclose(x, 255*window(detector, 2000, 4000), atol=.51)
    assert notes == [f'{keyword} of no use, ignored']

@pytest.mark.parametrize('keyword', ['VOILUTSequence', 'ModalityLUTSequence', 'PresentationLUTSequence'])
@pytest.mark.parametrize('item', [Dataset(), table([1, 2, 3], n=900)])
def test_junk_in_one_table_costs_that_table(tmp_path, keyword, item):
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', detector, WindowCenter=2000, WindowWidth=4000,
        **{keyword: Sequence([item])}))
    np.testing.assert_allclose(x, 255*window(detector, 2000, 4000), atol=.51)
    assert notes == [f'{keyword} of no use, ignored']

@pytest.mark.filterwarnings('ignore')
def test_one_window_of_two_is_junk(tmp_path):
    f = spoiled(tmp_path/'a.dcm', 'WindowCenter', 'abc\\2000', 'DS', WindowWidth=[100, 4000])
    np.testing.assert_allclose(read_dicom(f, voi=1), 255*window(detector, 2000, 4000), atol=.51)
    np.testing.assert_allclose(read_dicom(f), percentiles(detector), atol=.6)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('keyword', ['SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'])
def test_junk_in_functional_groups_costs_those_groups(tmp_path, keyword):
    x, notes = read_noted(spoiled(tmp_path/'a.dcm', keyword, 'abcd', 'LO', WindowCenter=2000, WindowWidth=4000))
    np.testing.assert_allclose(x, 255*window(detector, 2000, 4000), atol=.51)
    assert notes == [f'{keyword} of no use, ignored']

@pytest.mark.parametrize('moved', [True, False])
@pytest.mark.parametrize('signed', [False, True])
def test_high_bit(tmp_path, moved, signed):
    "12 bits in the upper part of 16; or in the lower part, and the header says otherwise"
    a = detector.astype(np.int32) - (2000 if signed else 0)
    x, notes = read_noted(save_dicom(tmp_path/'a.dcm', (a*16 if moved else a), bits=12, HighBit=15))
    np.testing.assert_allclose(x, percentiles(a), atol=.6)
    assert notes == ['pixels shifted by their HighBit' if moved else 'HighBit of no use, ignored']

def test_what_lies_over_a_picture_is_counted(tmp_path):
    ds = pydicom.dcmread(save_dicom(tmp_path/'a.dcm', detector, ShutterShape='RECTANGULAR', PixelAspectRatio=[1, 2]))
    for tag, vr, v in ((0x60000010, 'US', 20), (0x60000011, 'US', 28), (0x60000100, 'US', 1), (0x60000102, 'US', 0),
        (0x60003000, 'OW', b'\xff'*70)): ds.add_new(tag, vr, v)
    ds.save_as(tmp_path/'a.dcm')
    x, notes = read_noted(tmp_path/'a.dcm')
    np.testing.assert_allclose(x, percentiles(detector), atol=.6)
    assert notes == ['overlay not shown', 'display shutter not applied', 'pixels are not square']
    assert read_noted(save_dicom(tmp_path/'b.dcm', detector, PixelSpacing=[.5, .5], PixelAspectRatio=[1, 1]))[1] == []

def test_every_repair_has_its_place_in_the_cache():
    assert len(set(PICTURE_REPAIRS)) == len(PICTURE_REPAIRS) < 64
    assert image_files._kinds(image_files._bits(PICTURE_REPAIRS)) == [*PICTURE_REPAIRS]


# The cache

def picture(k): return np.random.default_rng(k).integers(0, 256, (20 + k, 30 - k), dtype=np.uint8)

@pytest.fixture
def cohort(tmp_path):
    "Eight pictures of different sizes, two regions, one of them drawn"
    for k in range(8): Image.fromarray(picture(k)).save(tmp_path/f'{k}.png')
    m = np.zeros((21, 29), np.uint8); m[2:9, 3:7] = 255
    Image.fromarray(m).save(tmp_path/'m1.png')
    items = pd.DataFrame(dict(image_id=list('abcdefgh'), patient_id=list('abcdefgh'), split='train',
                              image=[f'{k}.png' for k in range(8)], mass=[0, 1]*4))
    rois = pd.DataFrame([dict(image_id='b', label='mass', x0=3, y0=2, x1=7, y1=9, mask='m1.png'),
                         dict(image_id='h', label='mass', x0=0, y0=0, x1=23, y1=27, mask=None)])
    return Cohort(items, ['mass'], rois, root=tmp_path)

@pytest.fixture
def reads(monkeypatch):
    "The names of the files that were read, in order"
    seen, real = [], images._grey
    def spy(path, *a): seen.append(path.name); return real(path, *a)
    monkeypatch.setattr(images, '_grey', spy)
    return seen

def content(pixels): return {k: pixels[k].copy() for k in pixels.rows}

def check_content(pixels, cohort):
    for k, f in zip(cohort.items.image_id, cohort.items.image):
        image = read_image(cohort.root/f)
        geo = pixels.geometry(k)
        assert (geo.h, geo.w, geo.size) == (*image.shape, pixels.size)
        np.testing.assert_array_equal(pixels[k], geo.to_square(image))

def test_each_file_is_read_once(cohort, reads, tmp_path):
    p = cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=3)
    assert sorted(reads) == cohort.items.image.tolist()
    check_content(p, cohort)
    reads.clear()
    assert cache_pixels(cohort, 16, tmp_path/'cache').digest() == p.digest() and reads == []
    assert cache_pixels(cohort, 24, tmp_path/'cache').size == 24 and len(reads) == 8
    check_content(Pixels(p.folder), cohort)

def test_threads_and_order_change_nothing(cohort, tmp_path):
    a, b = (cache_pixels(cohort, 16, tmp_path/f'cache{n}', n_jobs=n) for n in (1, 4))
    assert a.digest() == b.digest()
    back = cache_pixels(cohort.take(list('hgfedcba')), 16, tmp_path/'back')
    check_content(back, cohort)
    assert back.digest() != a.digest()                                      # a digest knows the order

@pytest.mark.parametrize('stop', [KeyboardInterrupt, RuntimeError, MemoryError])
def test_it_goes_on_where_it_was_stopped(cohort, tmp_path, reads, monkeypatch, stop):
    class Stopped(images.Geometry):
        def to_square(self, *a):
            if len(reads) == 5: raise stop
            return super().to_square(*a)
    with monkeypatch.context() as m:
        m.setattr(images, 'Geometry', Stopped)
        with pytest.raises(stop): cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1)
    first = reads[:4]
    del reads[4:]                                                           # the fifth was read, but not kept
    p = cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1)
    assert len(first) == 4 and sorted(reads) == cohort.items.image.tolist()  # none of those again
    check_content(p, cohort)

def test_it_goes_on_after_a_file_was_mended(cohort, tmp_path, reads):
    good = (tmp_path/'3.png').read_bytes()
    (tmp_path/'3.png').write_bytes(good[:40])
    with pytest.raises(ValueError, match='1 of 8 images cannot be read .*:\nd: (truncated|not an image)'):
        cache_pixels(cohort, 16, tmp_path/'cache')
    (tmp_path/'3.png').write_bytes(good)
    reads.clear()
    p = cache_pixels(cohort, 16, tmp_path/'cache')
    assert reads == ['3.png']                                               # the other seven were done
    check_content(p, cohort)

def test_it_was_stopped_at_the_very_end(cohort, tmp_path, reads, monkeypatch):
    def fail(*a, **k): raise OSError('disk full')
    with monkeypatch.context() as m:
        m.setattr(pd.DataFrame, 'to_parquet', fail)
        with pytest.raises(OSError, match='disk full'): cache_pixels(cohort, 16, tmp_path/'cache')
    reads.clear()
    p = cache_pixels(cohort, 16, tmp_path/'cache')
    assert reads == []
    check_content(p, cohort)

def test_a_beginning_without_its_list_is_thrown_away(cohort, tmp_path):
    whole = (tmp_path/'2.png').read_bytes()
    (tmp_path/'2.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='c: not an image'): cache_pixels(cohort, 16, tmp_path/'cache')
    (tmp_path/'2.png').write_bytes(whole)
    part = next((tmp_path/'cache').glob('*.part'))
    (part/'notes.npy').unlink()
    (part/'pixels.npy').write_bytes(b'half a header')
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)

def test_a_changed_file_makes_it_anew(cohort, tmp_path):
    old = cache_pixels(cohort, 16, tmp_path/'cache')
    before = content(old)
    Image.fromarray(255 - picture(2)).save(tmp_path/'2.png')
    new = cache_pixels(cohort, 16, tmp_path/'cache')
    assert new.folder != old.folder and new.digest() != old.digest()
    check_content(new, cohort)
    assert [k for k in before if (before[k] != new[k]).any()] == ['c']

def test_a_file_that_changes_while_the_cache_is_half_full(cohort, tmp_path):
    (tmp_path/'7.png').write_bytes(b'broken')
    with pytest.raises(ValueError): cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1)
    Image.fromarray(255 - picture(2)).save(tmp_path/'2.png')                # was done already, as it used to be
    Image.fromarray(picture(7)).save(tmp_path/'7.png')
    check_content(cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1), cohort)

def test_all_unreadable_files_are_named_at_once(cohort, tmp_path, reads):
    (tmp_path/'1.png').write_bytes(b'broken'); (tmp_path/'4.png').write_bytes(b'')
    (tmp_path/'6.png').write_bytes((tmp_path/'6.png').read_bytes()[:60])
    with pytest.raises(ValueError) as e: cache_pixels(cohort, 16, tmp_path/'cache')
    head = '3 of 8 images cannot be read (to go on without them: skip_unreadable=True, or --skip-unreadable):'
    found = ['b: not an image of a known format', 'e: empty file', 'g: truncated']
    assert str(e.value).splitlines() == [head, *found]
    assert not list((tmp_path/'cache').rglob('index.parquet'))              # nothing that looks finished
    reads.clear()
    with pytest.raises(ValueError, match='3 of 8'): cache_pixels(cohort, 16, tmp_path/'cache')
    assert set(reads) <= {'1.png', '4.png', '6.png'}                        # the five that can be read were kept

def test_a_long_list_is_cut(tmp_path):
    ids = [f'im{k:03}' for k in range(120)]
    Image.fromarray(picture(0)).save(tmp_path/'good.png')
    (tmp_path/'bad.png').write_bytes(b'broken')
    c = Cohort(pd.DataFrame(dict(image_id=ids, patient_id=ids, split='train', image=['good.png'] + ['bad.png']*119,
                                 y=0)), ['y'], root=tmp_path)
    with pytest.raises(ValueError) as e: cache_pixels(c, 8, tmp_path/'cache')
    lines = str(e.value).splitlines()
    assert lines[0].startswith('119 of 120 ') and len(lines) == 52 and lines[-1] == 'and 69 more'
    assert len(unreadable(c)) == 119

def test_missing_files_are_told_before_any_is_read(cohort, tmp_path, reads):
    for k in (5, 6): (tmp_path/f'{k}.png').unlink()
    with pytest.raises(FileNotFoundError) as e: cache_pixels(cohort, 16, tmp_path/'cache')
    assert str(e.value) == "2 of 8 images are missing, of image 'f', 'g'; paths are relative to root"
    assert reads == [] and not (tmp_path/'cache').exists()


# Images that cannot be read

@pytest.fixture
def faulty(cohort, tmp_path):
    "The eight pictures, of which one is broken and one is gone"
    (tmp_path/'1.png').write_bytes(b'broken')
    (tmp_path/'6.png').unlink()
    return cohort

LOST = {'b': 'not an image of a known format', 'g': 'missing file'}

def reasons(t):
    assert list(t.columns) == ['image_id', 'reason'] and t.index.tolist() == list(range(len(t)))
    return dict(zip(t.image_id, t.reason))

def test_unreadable(faulty, cohort):
    for n_jobs in (1, 3, -1): assert reasons(unreadable(faulty, n_jobs)) == LOST
    assert list(unreadable(faulty).image_id) == ['b', 'g']                   # in the order of the cohort
    assert list(unreadable(faulty.take(list('hgfedcba'))).image_id) == ['g', 'b']
    assert reasons(unreadable(faulty.take(list('ac')))) == {}

def test_the_others_can_be_used(faulty, tmp_path, reads):
    p = cache_pixels(faulty, 16, tmp_path/'cache', skip_unreadable=True)
    assert reasons(p.unreadable) == LOST and len(p) == 6 and list(p.index.index) == list('acdefh') == list(p.rows)
    check_content(p, faulty.take(p.index.index))
    assert repr(p) == 'Pixels: 6 images of 16 x 16, 2 unreadable'
    with pytest.raises(KeyError): p['b']
    reads.clear()
    again = cache_pixels(faulty, 16, tmp_path/'cache', skip_unreadable=True)
    assert again.folder == p.folder and reads == [] and reasons(again.unreadable) == LOST
    assert again.digest() == p.digest()
    assert reasons(Pixels(p.folder).unreadable) == LOST
    assert reasons(p.__reduce__()[0](*p.__reduce__()[1]).unreadable) == LOST

def test_a_finished_cache_with_gaps_is_still_refused_unless_asked_for(faulty, tmp_path, reads):
    cache_pixels(faulty, 16, tmp_path/'cache', skip_unreadable=True)
    reads.clear()
    with pytest.raises(FileNotFoundError, match="1 of 8 images are missing, of image 'g'"):
        cache_pixels(faulty, 16, tmp_path/'cache')
    there = faulty.take(list('abcd'))
    cache_pixels(there, 16, tmp_path/'cache', skip_unreadable=True)
    reads.clear()
    with pytest.raises(ValueError, match='1 of 4 images cannot be read.*:\nb: not an image'):
        cache_pixels(there, 16, tmp_path/'cache')
    assert reads == []

def test_first_refused_then_skipped(cohort, tmp_path, reads):
    (tmp_path/'1.png').write_bytes(b'broken')
    with pytest.raises(ValueError): cache_pixels(cohort, 16, tmp_path/'cache')
    reads.clear()
    assert len(cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)) == 7 and reads == ['1.png']

def test_mended_files_make_it_whole(faulty, tmp_path):
    p = cache_pixels(faulty, 16, tmp_path/'cache', skip_unreadable=True)
    for k in (1, 6): Image.fromarray(picture(k)).save(tmp_path/f'{k}.png')
    q = cache_pixels(faulty, 16, tmp_path/'cache', skip_unreadable=True)
    assert len(q) == 8 and reasons(q.unreadable) == {} and q.folder != p.folder and q.digest() != p.digest()
    check_content(q, faulty)
    whole = cache_pixels(faulty, 16, tmp_path/'cache')
    assert whole.folder == q.folder and whole.digest() == cache_pixels(faulty, 16, tmp_path/'other').digest()

def test_an_image_that_breaks_after_it_was_read(cohort, tmp_path):
    (tmp_path/'7.png').write_bytes(b'broken')
    with pytest.raises(ValueError): cache_pixels(cohort, 16, tmp_path/'cache')
    Image.fromarray(picture(7)).save(tmp_path/'7.png'); (tmp_path/'2.png').write_bytes(b'broken')
    p = cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)
    assert reasons(p.unreadable) == {'c': 'not an image of a known format'}
    others = cohort.take(list('abdefgh'))
    check_content(p, others)
    # what was once read of c counts no more
    assert p.digest() == cache_pixels(others, 16, tmp_path/'others').digest()

def test_none_is_left(cohort, tmp_path):
    for k in range(8): (tmp_path/f'{k}.png').write_bytes(b'')
    with pytest.raises(ValueError, match='8 of 8 images cannot be read'):
        cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)
    assert len(unreadable(cohort)) == 8

def test_a_full_disk_is_not_an_unreadable_image(cohort, tmp_path, monkeypatch):
    class Full(images.Geometry):
        def to_square(self, *a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(images, 'Geometry', Full)
    with pytest.raises(OSError, match='No space left'): cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)

def test_the_cache_is_mapped_and_for_reading_only(cohort, tmp_path):
    p = cache_pixels(cohort, 16, tmp_path/'cache')
    assert isinstance(p.array, np.memmap) and p.array.dtype == np.uint8 and p.array.shape == (8, 16, 16) and len(p) == 8
    for a in (p.array, p['a']):
        with pytest.raises(ValueError, match='read-only'): a[0] = 1
    with pytest.raises(KeyError, match='zebra'): p['zebra']

MEMORY = """
import sys, threading
from pathlib import Path
import numpy as np, pandas as pd
from mmpkd.cohort import Cohort
from mmpkd.images import cache_pixels, unreadable
root, n = Path(sys.argv[1]), int(sys.argv[2])
def peak():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/1024
ids = [f'i{k}' for k in range(n)]
files = [f'{k % 20}.png' for k in range(n)]
items = pd.DataFrame(dict(image_id=ids, patient_id=ids, split='train', image=files, y=0))
c = Cohort(items, ['y'], root=root)
cache_pixels(c.take(ids[:20]), 224, root/'warm', n_jobs=2)
before = peak()
p = cache_pixels(c, 224, root/'cache', n_jobs=2)
p.digest()
unreadable(c, n_jobs=2)
print(peak() - before)
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='/proc is of Linux')
def test_memory_does_not_grow_with_the_images(tmp_path):
    "The cache of 1,000 images takes 48 MiB on disk, and none of them in memory"
    for k in range(20):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (224, 224), dtype=np.uint8)).save(tmp_path/f'{k}.png')
    grown = float(subprocess.run([sys.executable, '-c', MEMORY, str(tmp_path), '1000'], check=True,
                                 capture_output=True, text=True).stdout)
    assert grown < 15, grown


# Regions

@pytest.fixture
def pixels(cohort, tmp_path): return cache_pixels(cohort, 16, tmp_path/'cache')

def with_rois(cohort, **changes):
    return Cohort(cohort.items, cohort.labels, cohort.rois.assign(**changes), root=cohort.root)

def test_a_box_may_fill_its_image(cohort, pixels):
    assert check_regions(cohort, pixels) == []           # h: 23 x 27 pixels

@pytest.mark.parametrize('change', [dict(x1=[7, 23.5]), dict(y1=[9, 28])])
def test_a_box_outside(cohort, pixels, change):
    with pytest.raises(ValueError, match=r"of image 'h' leaves the image, which is 23 pixels wide and 27 high"):
        check_regions(with_rois(cohort, **change), pixels)

def test_a_mask_of_another_shape(cohort, pixels):
    Image.fromarray(np.full((29, 21), 255, np.uint8)).save(cohort.root/'m1.png')
    why = '^1 of 1 masks do not fit their image:\nb: 21 x 29 pixels .width x height., its image 29 x 21$'
    with pytest.raises(ValueError, match=why):
        check_regions(cohort, pixels)

def test_masks_that_cannot_be_read(cohort, pixels):
    two = with_rois(cohort, mask=['m1.png', 'm2.png'])
    (cohort.root/'m1.png').write_bytes(b'broken')
    why = '^2 of 2 masks do not fit their image:\nb: not an image of a known format\nh: missing file$'
    with pytest.raises(ValueError, match=why):
        check_regions(two, pixels)

def test_only_the_head_of_a_mask_is_read(cohort, pixels):
    data = (cohort.root/'m1.png').read_bytes()
    (cohort.root/'m1.png').write_bytes(data[:45])                            # a head without pixels
    with pytest.raises(ValueError): read_mask(cohort.root/'m1.png')
    assert check_regions(cohort, pixels) == []

def test_a_mask_may_be_dicom(cohort, pixels):                               # as all of CBIS-DDSM are
    m = np.zeros((21, 29), np.uint16); m[2:9, 3:7] = 255
    save_dicom(cohort.root/'m1.dcm', m)
    assert check_regions(with_rois(cohort, mask=['m1.dcm', None]), pixels) == []
    save_dicom(cohort.root/'m1.dcm', m.T)
    with pytest.raises(ValueError, match='b: 21 x 29 pixels .width x height., its image 29 x 21'):
        check_regions(with_rois(cohort, mask=['m1.dcm', None]), pixels)
    ds = pydicom.dcmread(cohort.root/'m1.dcm'); del ds.Rows; ds.save_as(cohort.root/'m1.dcm')
    with pytest.raises(ValueError, match='b: its header has no Rows and Columns'):
        check_regions(with_rois(cohort, mask=['m1.dcm', None]), pixels)

def test_a_mask_of_another_size_is_resized_if_its_box_agrees(cohort, pixels):
    m = np.zeros((42, 58), np.uint8); m[4:18, 6:14] = 255                    # twice the image of b, around its box
    Image.fromarray(m).save(cohort.root/'m1.png')
    assert check_regions(cohort, pixels) == ['b']
    np.testing.assert_array_equal(read_mask(cohort.root/'m1.png', (21, 29)), read_mask(cohort.root/'m1.png')[::2, ::2])
    with pytest.raises(ValueError, match='b: after resizing its outline is 9 pixels away from its box'):
        # a box in pixels of the mask
        check_regions(with_rois(cohort, x0=[6, 0], y0=[4, 0], x1=[14, 23], y1=[18, 27]), pixels)
    Image.new('L', (58, 42)).save(cohort.root/'m1.png')
    with pytest.raises(ValueError, match='b: empty'): check_regions(cohort, pixels)

def test_regions_may_have_columns_of_their_own(cohort, pixels):             # MS-CXR has x, y, w, h
    c = with_rois(cohort, w=[4, 23], h=[7, 27], row=[0, 0])
    assert check_regions(c, pixels) == []
    with pytest.raises(ValueError, match="image 'h' leaves"): check_regions(with_rois(c, x1=[7, 24]), pixels)

def test_regions_without_masks_or_none_at_all(cohort, pixels):
    assert check_regions(Cohort(cohort.items, ['mass'], cohort.rois.drop(columns='mask'), root=cohort.root),
                         pixels) == []
    assert check_regions(Cohort(cohort.items, ['mass'], root=cohort.root), pixels) == []
    assert check_regions(with_rois(cohort, mask=None), pixels) == []

def test_regions_of_images_that_were_skipped(cohort, tmp_path):
    (tmp_path/'7.png').write_bytes(b'broken')
    p = cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)
    assert check_regions(with_rois(cohort, x1=[7, 999]), p) == []


# What the cache knows of each image, and of the files it was made from

def test_the_index_knows_each_picture(cohort, tmp_path):
    Image.fromarray(picture(2)).save(tmp_path/'5.png'); Image.new('L', (9, 9), 7).save(tmp_path/'6.png')
    p = cache_pixels(cohort, 16, tmp_path/'cache')
    for k, f in zip(cohort.items.image_id, cohort.items.image):
        a, row = read_image(tmp_path/f), p.index.loc[k]
        assert (row.h, row.w, row.lo, row.hi) == (*a.shape, a.min(),
            a.max()) and int(p.index.digest[k]) == picture_digest(a)
    assert p.index.digest['c'] == p.index.digest['f'] and p.index.digest.nunique() == 7
    assert picture_digest(np.zeros((2, 8), np.uint8)) != picture_digest(np.zeros((4, 4), np.uint8))

def test_repairs_are_kept_in_the_cache(cohort, tmp_path, reads):
    save_turned(tmp_path/'1.png', np.stack([picture(1), picture(1)//2, picture(1)], -1), 6)
    save_dicom(tmp_path/'3.png', detector, WindowCenter=9e4, WindowWidth=10)
    (tmp_path/'7.png').write_bytes(b'broken')
    with pytest.raises(ValueError): cache_pixels(cohort, 16, tmp_path/'cache')
    # what was known before the interruption is still known
    p = cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)
    for q in (p, Pixels(p.folder)):
        assert list(q.repairs.columns) == ['repair', 'id', 'note']
        assert list(zip(q.repairs.id, q.repairs.repair)) == [('b', 'turned by its EXIF orientation'),
            ('b', 'colour made grey'), ('d', 'window shows nothing, percentiles instead')]
    assert repr(p) == 'Pixels: 7 images of 16 x 16, 1 unreadable, 2 repaired'
    assert p.geometry('b') == Geometry(29, 21, 16)
    assert len(cache_pixels(cohort.take(list('ac')), 16, tmp_path/'cache').repairs) == 0

def swap_in_place(path, a): # Another picture, with the size and the time of the first
    old = path.stat()
    Image.fromarray(a).save(path.with_name('new'), 'bmp')
    os.replace(path.with_name('new'), path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)

def overwrite(path, a): # The same, in the same file
    old = path.stat()
    f = io.BytesIO(); Image.fromarray(a).save(f, 'bmp')
    with open(path, 'r+b') as out: out.write(f.getvalue())
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

@pytest.mark.skipif(os.name != 'posix', reason='the time of a change is of POSIX')
@pytest.mark.parametrize('swap', [swap_in_place, overwrite])
@pytest.mark.parametrize('finished', [True, False])
def test_a_replaced_file_of_equal_size_and_time_is_noticed(cohort, tmp_path, swap, finished):
    Image.fromarray(picture(2)).save(tmp_path/'2.png', 'bmp'); os.utime(tmp_path/'2.png', (1e9, 1e9))
    if not finished: (tmp_path/'7.png').write_bytes(b'broken')
    try: cache_pixels(cohort, 16, tmp_path/'cache')
    except ValueError: assert not finished
    Image.fromarray(picture(7)).save(tmp_path/'7.png')
    swap(tmp_path/'2.png', 255 - picture(2))
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)

TWO = """
import sys, pandas as pd
from mmpkd.cohort import Cohort
from mmpkd import images
root, n = sys.argv[1], int(sys.argv[2])
ids = [f'i{k}' for k in range(n)]
items = pd.DataFrame(dict(image_id=ids, patient_id=ids, split='test', image=[f'{k}.png' for k in range(n)], y=1))
c = Cohort(items, ['y'], root=root)
real = images._grey
reads = []
def spy(path, *a): reads.append(path); return real(path, *a)
images._grey = spy
print('ready', flush=True)
sys.stdin.readline()
p = images.cache_pixels(c, 32, root + '/cache', n_jobs=1)
print(p.digest(), len(p), len(reads))
"""

def test_a_new_decoder_makes_the_cache_anew(cohort, tmp_path, reads, monkeypatch): # what it could not read, it may now
    first = cache_pixels(cohort, 16, tmp_path/'cache')
    known = images._encodings()
    monkeypatch.setattr(images, '_encodings', lambda: [*known, '1.2.3'])
    reads.clear()
    assert cache_pixels(cohort, 16, tmp_path/'cache').folder != first.folder and len(reads) == len(cohort)

def test_two_processes_fill_one_cache_together(tmp_path):
    n = 60
    for k in range(n): Image.fromarray(np.random.default_rng(k).integers(0, 255, (300, 300),
        dtype=np.uint8)).save(tmp_path/f'{k}.png')
    both = [subprocess.Popen([sys.executable, '-c', TWO, str(tmp_path), str(n)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for p in both: assert p.stdout.readline() == 'ready\n'
    for p in both: p.stdin.write('go\n'); p.stdin.flush()
    said = [p.communicate(timeout=120) for p in both]
    (a, b), reads = zip(*[(o.split()[:2], int(o.split()[2])) for o, _ in said])
    assert a == b and a[1] == str(n) and sum(reads) == n                     # and none of the files was read twice

def test_a_second_process_says_that_it_waits(cohort, tmp_path, capsys, monkeypatch):
    class Busy(images.FileLock):
        def acquire(self, timeout=None, **k):
            if timeout == 0: raise images.Timeout(str(self.lock_file))
            return super().acquire(timeout, **k)
    monkeypatch.setattr(images, 'FileLock', Busy)
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)
    assert capsys.readouterr().err == 'Another process reads these images; waiting for it.\n'

def test_a_file_system_without_locks(cohort, tmp_path, monkeypatch):
    class Unlockable(images.FileLock):
        def acquire(self, *a, **k): raise NotImplementedError
    monkeypatch.setattr(images, 'FileLock', Unlockable)
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)

def test_another_process_was_faster(cohort, tmp_path, monkeypatch, reads):
    "Between the first look and the lock, the cache was finished"
    folder = cache_pixels(cohort, 16, tmp_path/'cache').folder
    hidden = folder.rename(tmp_path/'hidden')
    class Slow(images.FileLock):
        def acquire(self, *a, **k): hidden.rename(folder); return super().acquire(*a, **k)
    monkeypatch.setattr(images, 'FileLock', Slow)
    reads.clear()
    assert cache_pixels(cohort, 16, tmp_path/'cache').folder == folder and reads == []


# Boxes that leave their image by a rounding

def test_a_rounding_is_clipped_and_counted(cohort, pixels):
    c = with_rois(cohort, x0=[3, 0], y0=[2, 0], x1=[7.5, 23.5], y1=[9, 28])
    out = clip_regions(c, pixels)
    assert out.rois[BOX].to_numpy().tolist() == [[3, 2, 7.5, 9], [0, 0, 23, 27]] and check_regions(out, pixels) == []
    assert out.repairs.to_numpy().tolist() == [['box clipped to its image', 'h',
        'by 1 pixels']] and out.repair_counts().to_dict() == {'box clipped to its image': 1}
    assert c.rois.x1.tolist() == [7.5, 23.5] and len(c.repairs) == 0         # the cohort itself is as it was
    assert out.items is c.items and list(out.rois['mask']) == list(c.rois['mask'])

@pytest.mark.parametrize('change', [dict(x1=[7, 24.5]), dict(y1=[9, 28.01]), dict(x0=[3, 23.2], x1=[7, 23.9])])
def test_what_lies_further_outside_is_refused(cohort, pixels, change):       # the last: nothing would be left
    c = with_rois(cohort, **change)
    assert clip_regions(c, pixels) is c
    with pytest.raises(ValueError, match="of image 'h' leaves the image"): check_regions(clip_regions(c, pixels),
        pixels)

def test_slack_is_an_argument_and_repairs_add_up(cohort, pixels):
    c = with_rois(cohort, x1=[7, 25])
    assert clip_regions(c, pixels, slack=2).rois.x1.tolist() == [7, 23] and clip_regions(c, pixels, slack=0) is c
    twice = clip_regions(with_rois(clip_regions(c, pixels, 2), y1=[9, 27.5]), pixels)
    assert len(twice.repairs) == 1
    again = clip_regions(c, pixels, 2); again.rois['y1'] = [9, 27.5]
    assert clip_regions(again, pixels).repairs.note.tolist() == ['by 2 pixels', 'by 0.5 pixels']

def test_negative_corners_are_clipped_too(cohort, pixels):                   # a cohort refuses them; a loader may not
    c = with_rois(cohort)
    c.rois['x0'] = [-.5, 0]
    assert clip_regions(c, pixels).rois.x0.tolist() == [0, 0]

def test_no_regions_nothing_to_clip(cohort, pixels, tmp_path):
    none = Cohort(cohort.items, ['mass'], root=cohort.root)
    assert clip_regions(none, pixels) is none and clip_regions(cohort, pixels) is cohort
    (tmp_path/'7.png').write_bytes(b'broken')
    some = cache_pixels(cohort, 16, tmp_path/'cache', skip_unreadable=True)
    c = with_rois(cohort, x1=[7, 23.5])
    assert clip_regions(c, some) is c # of an image that was skipped nothing is known


def test_show_draws_fewer_than_asked_for(cohort):
    import matplotlib.pyplot as plt
    cohort.take(list('abc')).show(8)
    axs = plt.gcf().axes
    assert sum(len(a.images) for a in axs) == 3 and sum(len(a.patches) for a in axs) == 1
    assert {a.get_title() for a in axs} == {'mass', 'negative'}
    plt.close('all')
