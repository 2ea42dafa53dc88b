"Corner cases of mmpkd.images: the way back for thousands of shapes, files of every kind, a cache that breaks off"
import matplotlib
import numpy as np, pandas as pd, pydicom, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from mmpkd import images
from mmpkd.cohort import Cohort
from mmpkd.images import Geometry, Pixels, cache_pixels, check_regions, is_dicom, read_dicom, read_image, read_mask, to_uint8

matplotlib.use('Agg')

large = st.builds(Geometry, st.integers(1, 5000), st.integers(1, 5000), st.integers(8, 512))
small = st.builds(Geometry, st.integers(1, 120), st.integers(1, 120), st.integers(8, 128))
seeds = st.integers(0, 2**32 - 1)


# Boxes

def some_boxes(geo, seed, n=8): # Boxes within the original image, among them the whole of it and a single pixel
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, n, 2))*[geo.w, geo.h]
    pixel = np.floor(rng.random(2)*[geo.w, geo.h])
    return np.vstack([np.hstack([np.minimum(a, b), np.maximum(a, b)]), [[0, 0, geo.w, geo.h]], [[*pixel, *(pixel + 1)]]])

@settings(max_examples=2000)
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
    assert abs(nh - max(1, geo.h*geo.size/max(geo.h, geo.w))) <= .5 and abs(nw - max(1, geo.w*geo.size/max(geo.h, geo.w))) <= .5
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
    with pytest.raises(ValueError, match="'bilinear' or 'nearest', not 'bicubic'"): geo.map_to_original(np.zeros((3, 3)), 'bicubic')

def test_no_boxes(): assert Geometry(30, 40, 16).to_model(np.zeros((0, 4))).shape == Geometry(30, 40, 16).to_original([]).shape == (0, 4)


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
    half_x, half_y = patch/2*geo.w/geo.fitted[1] + 1, patch/2*geo.h/geo.fitted[0] + 1         # in original pixels, and one of those
    assert abs(found_x - x).min() <= half_x + 1e-6 and abs(found_y - y).min() <= half_y + 1e-6

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
    tolerance = side/2 + 1.5*max(scale, 1)                                  # half a patch, and the rounding of the resize
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
    np.testing.assert_array_equal(geo.map_to_original(m, 'nearest')[sure], m[np.ix_(y.astype(int).clip(0, g-1), x.astype(int).clip(0, g-1))][sure])

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

@given(st.lists(st.one_of(st.integers(-2**31, 2**31 - 1), st.integers(-10**6, 10**6).map(lambda i: i/1000)), min_size=1, max_size=20))
def test_to_uint8_keeps_the_order_and_uses_the_range(values):
    a = np.array(values, np.float32)
    b = to_uint8(a).astype(int)
    assert (np.diff(b[a.argsort()]) >= 0).all()
    assert (b.min(), b.max()) == ((0, 255) if a.min() < a.max() else (0, 0))

@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses(value):
    with pytest.raises(ValueError, match='not finite'): to_uint8(np.array([0, value, 1]))


# Files that PIL reads

ramp = np.arange(1200, dtype=np.uint8).reshape(30, 40)

def test_8_bits_come_as_they_are(tmp_path):                                 # not stretched
    Image.fromarray(ramp//4 + 100).save(tmp_path/'a.png')
    np.testing.assert_array_equal(read_image(tmp_path/'a.png'), ramp//4 + 100)

@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bits_are_scaled(tmp_path, suffix):
    a = np.arange(1200, dtype=np.uint16).reshape(30, 40)*3 + 500
    Image.fromarray(a).save(tmp_path/f'a.{suffix}')
    r = read_image(tmp_path/f'a.{suffix}')
    assert r.dtype == np.uint8 and r.min() == 0 and r.max() == 255
    np.testing.assert_allclose(r, (a - 500.)/(1199*3)*255, atol=.51)

def test_floats_are_scaled_and_must_be_finite(tmp_path):
    a = np.linspace(-1, 1, 1200, dtype=np.float32).reshape(30, 40)
    Image.fromarray(a).save(tmp_path/'a.tif')
    np.testing.assert_allclose(read_image(tmp_path/'a.tif'), (a + 1)/2*255, atol=.51)
    a[3, 3] = np.nan
    Image.fromarray(a).save(tmp_path/'a.tif')
    with pytest.raises(ValueError, match='a.tif: pixel values are not finite'): read_image(tmp_path/'a.tif')

colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]], np.uint8)
grey = np.rint(colours @ [.299, .587, .114])

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_colours_become_luminance(tmp_path, mode):
    Image.fromarray(np.stack([colours, colours])).convert(mode, **dict(palette=Image.Palette.ADAPTIVE) if mode == 'P' else {}).save(tmp_path/'a.png')
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

def test_content_decides_not_the_suffix(tmp_path):
    Image.fromarray(ramp).save(tmp_path/'a.png')
    (tmp_path/'a').write_bytes((tmp_path/'a.png').read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path/'a'), ramp)
    assert not is_dicom(tmp_path/'a')

@pytest.mark.parametrize('keep', [0, 20, .5, .95])
@pytest.mark.parametrize('suffix', ['png', 'jpg', 'dcm'])
def test_a_truncated_file(tmp_path, suffix, keep):
    f, noise = tmp_path/f'half.{suffix}', np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
    save_dicom(f, noise) if suffix == 'dcm' else Image.fromarray(noise).save(f)
    data = f.read_bytes()
    f.write_bytes(data[:keep if keep > 1 else int(keep*len(data))])
    with pytest.raises(ValueError, match=f'cannot read the image .*half.{suffix}: .'): read_image(f)

def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image at'): read_image(tmp_path)
    (tmp_path/'text.dcm').write_text('not DICOM, whatever its name')
    with pytest.raises(ValueError, match='text.dcm'): read_image(tmp_path/'text.dcm')

def test_masks(tmp_path):
    m = np.zeros((20, 30), np.uint8)
    Image.fromarray(m).save(tmp_path/'m.png')
    with pytest.raises(ValueError, match='m.png is empty'): read_mask(tmp_path/'m.png')
    m[3:8, 4:9] = 1
    for top in (1, 128, 255):
        Image.fromarray(m*np.uint8(top)).save(tmp_path/'m.png')
        np.testing.assert_array_equal(read_mask(tmp_path/'m.png'), m > 0)
    Image.fromarray(np.kron(m, np.full((8, 8), 255, np.uint8))).save(tmp_path/'m.jpg', quality=60)   # ringing at the outline
    np.testing.assert_array_equal(read_mask(tmp_path/'m.jpg'), np.kron(m, np.ones((8, 8))) > 0)
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path/'m.png')
    assert read_mask(tmp_path/'m.png').all()


# DICOM

def save_dicom(path, a, photometric='MONOCHROME2', bits=12, **tags):
    "A file of grey values with any further tags"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, DigitalXRayImageStorageForPresentation, '1.2.3'
    ds = FileDataset(path, {}, file_meta=meta, preamble=b'\0'*128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, '1.2.3', 'DX'
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *a.shape[-2:], 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, int(a.min() < 0)
    ds.PixelData = a.astype('<i2' if a.min() < 0 else '<u2').tobytes()
    for k, v in tags.items(): setattr(ds, k, v)
    ds.save_as(path)
    return path

detector = np.arange(0, 4096, 7, dtype=np.uint16)[:560].reshape(20, 28)

def window(x, c, w): return np.clip((x - (c - .5))/(w - 1) + .5, 0, 1)      # PS3.3 C.11.2.1.2.1

@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('slope,intercept', [(1, 0), (2, -1024), (-1, 4095), (.25, 10)])
def test_rescale_then_window_then_invert(tmp_path, photometric, slope, intercept):
    x = detector*float(slope) + intercept
    c, w = float(np.quantile(x, .4)), float(np.ptp(x)/3)
    f = save_dicom(tmp_path/'a.dcm', detector, photometric, RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=round(c, 3), WindowWidth=round(w, 3))
    expected = window(x, c, w)
    np.testing.assert_allclose(read_dicom(f), 255*(1 - expected if photometric == 'MONOCHROME1' else expected), atol=.6)

@pytest.mark.parametrize('tags', [{}, dict(WindowCenter=None, WindowWidth=None), dict(WindowCenter=2000.)])
def test_without_a_window_nothing_is_clipped(tmp_path, tags):
    a = read_image(save_dicom(tmp_path/'a.dcm', detector, **tags))
    np.testing.assert_allclose(a, detector/detector.max()*255, atol=.6)

def test_the_first_of_several_windows(tmp_path):
    a = read_image(save_dicom(tmp_path/'a.dcm', detector, WindowCenter=[1000., 3000.], WindowWidth=[500., 100.]))
    np.testing.assert_allclose(a, 255*window(detector, 1000, 500), atol=.6)

def test_signed_pixels(tmp_path):
    signed = detector.astype(np.int16) - 2000
    np.testing.assert_allclose(read_image(save_dicom(tmp_path/'a.dcm', signed, bits=16)), detector/detector.max()*255, atol=.6)

def test_a_constant_image(tmp_path): assert not read_image(save_dicom(tmp_path/'a.dcm', detector*0 + 9)).any()

def test_dicom_without_a_suffix(tmp_path):
    f = save_dicom(tmp_path/'a', detector)
    assert is_dicom(f) and read_image(f).shape == detector.shape

def test_frames(tmp_path):
    f = save_dicom(tmp_path/'a.dcm', np.stack([detector, detector[::-1], detector.T.reshape(20, 28)]), NumberOfFrames=3)
    with pytest.raises(ValueError, match=r'a.dcm: 3 frames; say which one with frame=0..2'): read_image(f)
    np.testing.assert_array_equal(read_image(f, frame=1), read_image(f, frame=0)[::-1])
    with pytest.raises(ValueError, match='a.dcm'): read_image(f, frame=3)

def test_every_real_file_is_read_or_named(shared_data):
    files, read = sorted((shared_data/'dicom').glob('*.dcm')), []
    for f in files:
        try: a = read_image(f, frame=0)
        except ValueError as e: assert f'cannot read the image {f}: ' in str(e)
        else:
            d = pydicom.dcmread(f)
            assert a.dtype == np.uint8 and a.shape == (d.Rows, d.Columns) and a.max() > a.min()
            read.append(f.name)
    assert {f.name for f in files} - set(read) == {'JPEG2000-embedded-sequence-delimiter.dcm', 'meta_missing_tsyntax.dcm', 'nested_priv_SQ.dcm'}

@pytest.mark.parametrize('name,frames', [('OBXXXX1A_rle_2frame', 2), ('emri_small_jpeg_ls_lossless', 10)])
def test_real_frames(shared_data, name, frames):
    f = shared_data/f'dicom/{name}.dcm'
    with pytest.raises(ValueError, match=f'{name}.dcm: {frames} frames; .*frame=0..{frames-1}'): read_image(f)
    assert (read_image(f, 0) != read_image(f, frames-1)).any()

@pytest.mark.parametrize('name', ['RG1_J2KI', 'RG3_J2KI', 'RG3_J2KR'])
def test_computed_radiographs_are_bright_where_dense(shared_data, name):
    ds = pydicom.dcmread(shared_data/f'dicom/{name}.dcm')
    assert ds.PhotometricInterpretation == 'MONOCHROME1'
    stored = ds.pixel_array
    x = np.asarray(apply_voi_lut(apply_modality_lut(stored, ds), ds), float)
    a = read_image(shared_data/f'dicom/{name}.dcm')
    assert np.abs(a - (255 - (x - x.min())/np.ptp(x)*255)).max() <= .6
    assert np.corrcoef(stored[::8, ::8].ravel(), a[::8, ::8].ravel())[0, 1] < -.5       # stored dark is shown bright

def test_lossy_and_lossless_look_alike(shared_data):
    a, b = (read_image(shared_data/f'dicom/RG3_{k}.dcm').astype(float) for k in ('J2KI', 'J2KR'))
    assert np.abs(a - b).mean() < 3

@pytest.mark.parametrize('name', ['examples_rgb_color', 'SC_ybr_full_422_uncompressed', 'US1_J2KI'])
def test_real_colours_become_luminance(shared_data, name):
    rgb = pixel_array(shared_data/f'dicom/{name}.dcm')                       # pydicom turns YBR into RGB
    assert rgb.ndim == 3
    np.testing.assert_allclose(read_image(shared_data/f'dicom/{name}.dcm'), to_uint8(rgb) @ [.299, .587, .114], atol=1)

@pytest.mark.parametrize('name', ['examples_palette', 'OBXXXX1A_rle_2frame'])
def test_a_palette_is_looked_up(shared_data, name):                         # the stored numbers are names of colours, not shades
    ds = pydicom.dcmread(shared_data/f'dicom/{name}.dcm')
    a = ds.pixel_array
    rgb = apply_color_lut(a if a.ndim == 2 else a[0], ds)
    luminance = to_uint8(rgb) @ [.299, .587, .114]
    assert np.corrcoef(read_image(shared_data/f'dicom/{name}.dcm', 0).ravel(), luminance.ravel())[0, 1] > .99


# The cache

def picture(k): return np.random.default_rng(k).integers(0, 256, (20 + k, 30 - k), dtype=np.uint8)

@pytest.fixture
def cohort(tmp_path):
    "Eight pictures of different sizes, two regions, one of them drawn"
    for k in range(8): Image.fromarray(picture(k)).save(tmp_path/f'{k}.png')
    m = np.zeros((21, 29), np.uint8); m[2:9, 3:7] = 255
    Image.fromarray(m).save(tmp_path/'m1.png')
    items = pd.DataFrame(dict(image_id=list('abcdefgh'), patient_id=list('abcdefgh'), split='train', image=[f'{k}.png' for k in range(8)], mass=[0, 1]*4))
    rois = pd.DataFrame([dict(image_id='b', label='mass', x0=3, y0=2, x1=7, y1=9, mask='m1.png'), dict(image_id='h', label='mass', x0=0, y0=0, x1=23, y1=27, mask=None)])
    return Cohort(items, ['mass'], rois, root=tmp_path)

@pytest.fixture
def reads(monkeypatch):
    "The names of the files that were read, in order"
    seen, real = [], images.read_image
    def spy(path, *a): seen.append(path.name); return real(path, *a)
    monkeypatch.setattr(images, 'read_image', spy)
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
    real = images.read_image
    def stopped(path, *a):
        if len(reads) == 5: raise stop
        return real(path, *a)
    monkeypatch.setattr(images, 'read_image', stopped)
    with pytest.raises(stop): cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1)
    first = list(reads)
    monkeypatch.setattr(images, 'read_image', real)
    p = cache_pixels(cohort, 16, tmp_path/'cache', n_jobs=1)
    assert len(first) == 5 and sorted(reads) == cohort.items.image.tolist()  # no file twice
    check_content(p, cohort)

def test_it_goes_on_after_a_file_was_mended(cohort, tmp_path, reads):
    good = (tmp_path/'3.png').read_bytes()
    (tmp_path/'3.png').write_bytes(good[:40])
    with pytest.raises(ValueError, match='1 of 8 images cannot be read:\n.*3.png'): cache_pixels(cohort, 16, tmp_path/'cache')
    (tmp_path/'3.png').write_bytes(good)
    reads.clear()
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)
    assert reads == ['3.png']                                               # the other seven were done

def test_it_was_stopped_at_the_very_end(cohort, tmp_path, reads, monkeypatch):
    def fail(*a, **k): raise OSError('disk full')
    with monkeypatch.context() as m:
        m.setattr(pd.DataFrame, 'to_parquet', fail)
        with pytest.raises(OSError, match='disk full'): cache_pixels(cohort, 16, tmp_path/'cache')
    reads.clear()
    check_content(cache_pixels(cohort, 16, tmp_path/'cache'), cohort)
    assert reads == []

def test_a_beginning_without_its_list_is_thrown_away(cohort, tmp_path):
    whole = (tmp_path/'2.png').read_bytes()
    (tmp_path/'2.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match='2.png'): cache_pixels(cohort, 16, tmp_path/'cache')
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

def test_all_unreadable_files_are_named_at_once(cohort, tmp_path):
    for k in (1, 4, 6): (tmp_path/f'{k}.png').write_bytes(b'broken')
    with pytest.raises(ValueError) as e: cache_pixels(cohort, 16, tmp_path/'cache')
    assert str(e.value).startswith('3 of 8 images cannot be read:') and [f'{k}.png' in str(e.value) for k in range(8)] == [False, True, False, False, True, False, True, False]
    assert not list((tmp_path/'cache').rglob('index.parquet'))              # nothing that looks finished

def test_missing_files_are_told_before_any_is_read(cohort, tmp_path, reads):
    for k in (5, 6): (tmp_path/f'{k}.png').unlink()
    with pytest.raises(FileNotFoundError, match='2 images are missing, the first is .*5.png'): cache_pixels(cohort, 16, tmp_path/'cache')
    assert reads == [] and not (tmp_path/'cache').exists()

def test_the_cache_is_mapped_and_for_reading_only(cohort, tmp_path):
    p = cache_pixels(cohort, 16, tmp_path/'cache')
    assert isinstance(p.array, np.memmap) and p.array.dtype == np.uint8 and p.array.shape == (8, 16, 16) and len(p) == 8
    for a in (p.array, p['a']):
        with pytest.raises(ValueError, match='read-only'): a[0] = 1
    with pytest.raises(KeyError, match='zebra'): p['zebra']


# Regions

@pytest.fixture
def pixels(cohort, tmp_path): return cache_pixels(cohort, 16, tmp_path/'cache')

def with_rois(cohort, **changes): return Cohort(cohort.items, cohort.labels, cohort.rois.assign(**changes), root=cohort.root)

def test_a_box_may_fill_its_image(cohort, pixels): assert check_regions(cohort, pixels) is None         # h: 23 x 27 pixels

@pytest.mark.parametrize('change', [dict(x1=[7, 23.5]), dict(y1=[9, 28])])
def test_a_box_outside(cohort, pixels, change):
    with pytest.raises(ValueError, match=r"of image 'h' leaves the image, which is 23 pixels wide and 27 high"): check_regions(with_rois(cohort, **change), pixels)

def test_a_mask_of_another_size(cohort, pixels):
    Image.fromarray(np.full((29, 21), 255, np.uint8)).save(cohort.root/'m1.png')
    with pytest.raises(ValueError, match='m1.png is 21 pixels wide and 29 high, its image 29 and 21'): check_regions(cohort, pixels)

def test_a_mask_that_cannot_be_read(cohort, pixels):
    (cohort.root/'m1.png').write_bytes(b'broken')
    with pytest.raises(ValueError, match='cannot read the (mask|image) .*m1.png'): check_regions(cohort, pixels)
    (cohort.root/'m1.png').unlink()
    with pytest.raises((ValueError, FileNotFoundError), match='m1.png'): check_regions(cohort, pixels)

def test_an_empty_mask(cohort, pixels):
    Image.new('L', (29, 21)).save(cohort.root/'m1.png')
    with pytest.raises(ValueError, match='m1.png is empty'): check_regions(cohort, pixels)

def test_a_mask_may_be_dicom(cohort, pixels):                               # as all of CBIS-DDSM are
    m = np.zeros((21, 29), np.uint16); m[2:9, 3:7] = 255
    save_dicom(cohort.root/'m1.dcm', m)
    check_regions(with_rois(cohort, mask=['m1.dcm', None]), pixels)
    save_dicom(cohort.root/'m1.dcm', m.T)
    with pytest.raises(ValueError, match='m1.dcm is 21 pixels wide and 29 high, its image 29 and 21'): check_regions(with_rois(cohort, mask=['m1.dcm', None]), pixels)

def test_regions_may_have_columns_of_their_own(cohort, pixels):             # MS-CXR has x, y, w, h
    c = with_rois(cohort, w=[4, 23], h=[7, 27])
    check_regions(c, pixels)
    with pytest.raises(ValueError, match="image 'h' leaves"): check_regions(with_rois(c, x1=[7, 24]), pixels)

def test_regions_without_masks_or_none_at_all(cohort, pixels):
    check_regions(Cohort(cohort.items, ['mass'], cohort.rois.drop(columns='mask'), root=cohort.root), pixels)
    check_regions(Cohort(cohort.items, ['mass'], root=cohort.root), pixels)


def test_show_draws_fewer_than_asked_for(cohort):
    import matplotlib.pyplot as plt
    cohort.take(list('abc')).show(8)
    axs = plt.gcf().axes
    assert sum(len(a.images) for a in axs) == 3 and sum(len(a.patches) for a in axs) == 1 and {a.get_title() for a in axs} == {'mass', 'negative'}
    plt.close('all')
