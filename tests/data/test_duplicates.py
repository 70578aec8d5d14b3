"""Equal and nearly equal pictures: what is found, what is not, and that it ends."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from convnet_edge.data import duplicates
from convnet_edge.data.duplicates import Duplicates, dhashes, find

SHAPES = [(28, 28), (8, 8), (40, 24, 3), (1, 1), (300, 200, 3)]


def shapes_on_ground(n, *, size=48, seed=0):
    """Return (n, size, size, 3) uint8: each a few blurred patches in colours, all different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((size, size), Image.BICUBIC)) for one in coarse]
    )


def saved_again(pixels, *, quality=60, scale=1.0):
    """Return the picture as it comes back from a JPEG file of another size."""
    picture, file = Image.fromarray(pixels), io.BytesIO()
    size = [round(side * scale) for side in picture.size]
    picture.resize(size, Image.BICUBIC).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).resize(picture.size, Image.BILINEAR))


def found_in(pixels):
    return find(pixels, dhashes(pixels))


def dhash(pixels):
    return int(dhashes(pixels[None])[0])


def equal(found):
    """Return the pairs of equal pictures, each with the first of them."""
    pairs = found.pairs(np.ones(len(found.first), bool))
    return [(one, other) for one, other, distance in pairs if distance is None]


def slow_hash(pixels):
    """The hash by its words: average each of 9 x 8 areas, pixel by pixel, and compare."""
    grey = pixels @ [0.299, 0.587, 0.114] if pixels.ndim == 3 else pixels.astype(float)
    fine = np.kron(grey, np.ones((8, 9)))  # each area is a whole number of these
    areas = fine.reshape(8, fine.shape[0] // 8, 9, fine.shape[1] // 9).mean((1, 3))
    bits = [
        areas[row, column + 1] - areas[row, column] > 2 for row in range(8) for column in range(8)
    ]
    return int("".join("01"[bool(bit)] for bit in bits), 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hash_of_any_shape_is_the_one_that_the_slow_way_gives(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (5, *shape), dtype=np.uint8)
    expected = [slow_hash(one) for one in pixels]
    assert [dhash(one) for one in pixels] == dhashes(pixels).tolist() == expected


def test_hash_of_even_ground_ignores_noise_and_mirrors_tell_apart():
    ground = np.full((28, 28), 90, np.uint8)
    noise = np.random.default_rng(2).integers(0, 2, (28, 28), dtype=np.uint8)
    assert dhash(ground) == dhash(ground + noise) == 0
    ramp = np.tile(np.arange(0, 252, 9, dtype=np.uint8), (28, 1))
    assert (dhash(ramp), dhash(ramp[:, ::-1])) == (2**64 - 1, 0)


def test_equal_pictures_are_found_once_each_wherever_they_stand():
    pixels = shapes_on_ground(40)
    pixels[[7, 30]], pixels[39] = pixels[2], pixels[11]
    pixels[20], pixels[21] = 5, 5  # flat ones too
    found = found_in(pixels)
    assert equal(found) == [(2, 7), (20, 21), (2, 30), (11, 39)]
    assert not len(found.near)


def test_pairs_are_those_of_used_pictures_alone():
    near, distances = np.array([[0, 1], [1, 4]]), np.array([1.5, 2.5])
    found = Duplicates(np.array([0, 1, 0, 0, 4, 1]), near, distances)
    everything = np.ones(6, bool)
    equal = [(0, 2, None), (0, 3, None), (1, 5, None)]
    assert [*found.pairs(everything)] == [*equal, (0, 1, 1.5), (1, 4, 2.5)]
    everything[0] = False  # then another is the first
    assert [*found.pairs(everything)] == [(2, 3, None), (1, 5, None), (1, 4, 2.5)]
    assert [*found.pairs(np.zeros(6, bool))] == []


@pytest.mark.parametrize("in_grey", [False, True])
def test_pictures_saved_again_are_near_and_no_other(in_grey):
    pixels = shapes_on_ground(120)
    pixels = pixels[..., 1] if in_grey else pixels
    again = [
        saved_again(pixels[i], quality=60 + i, scale=(0.5, 0.8, 1.5)[i % 3]) for i in range(30)
    ]
    pixels = np.concatenate([pixels, again])
    found = found_in(pixels)
    assert found.near.tolist() == [[i, 120 + i] for i in range(30)]
    assert equal(found) == []
    assert np.all((found.distances > 0) & (found.distances < duplicates.MAX_LEVELS))


def test_picture_near_a_group_of_equal_ones_is_paired_with_their_first():
    (picture,) = shapes_on_ground(1)
    pixels = np.stack([picture, saved_again(picture), picture])
    found = found_in(pixels)
    assert (equal(found), found.near.tolist()) == ([(0, 2)], [[0, 1]])


@pytest.mark.parametrize("change", ["patch", "brightness", "contrast"])
def test_picture_that_differs_in_one_place_or_overall_is_not_near(change):
    (picture,) = shapes_on_ground(1)
    other = picture.copy()
    if change == "patch":
        other[18:24, 18:24] = 255 if other[18:24, 18:24].mean() < 127 else 0
    elif change == "brightness":
        other = np.clip(other * 0.9, 0, 255).astype(np.uint8)
    else:  # all is noise around one shape, whose hash it keeps
        dim = 100 + picture // 32
        noise = np.random.default_rng(3).integers(-3, 4, (2, *picture.shape))
        picture, other = (dim + noise).astype(np.uint8)
    pixels = np.stack([picture, other])
    hashes = np.full(2, dhash(pixels[0]) or 0x0F0F, np.uint64)  # whatever a hash may say
    assert not len(find(pixels, hashes).near)


def test_flat_hashes_are_no_candidates():
    (picture,) = shapes_on_ground(1)
    pixels = np.stack([picture, saved_again(picture)])
    for hash_, n_near in (
        (0, 0),
        (0b111, 0),
        (0b1111, 1),
        (2**64 - 8, 0),
        (2**64 - 16, 1),
        (2**64 - 1, 0),
    ):
        found = find(pixels, np.full(2, hash_, np.uint64))
        assert len(found.near) == n_near, hex(hash_)


def test_hashes_within_six_bits_are_compared_and_beyond_are_not():
    (picture,) = shapes_on_ground(1)
    pixels, hash_ = np.stack([picture, saved_again(picture)]), 0x0123456789ABCDEF
    rng = np.random.default_rng(4)
    for n_bits, n_near in ((6, 1), (7, 0)):
        for _ in range(20):
            bits = rng.choice(64, n_bits, replace=False)
            other = hash_ ^ sum(1 << int(bit) for bit in bits)
            hashes = np.array([hash_, other], np.uint64)
            found = find(pixels, hashes)
            assert len(found.near) == n_near, bits


def test_thousands_of_one_hash_are_compared_with_their_neighbours_alone(monkeypatch):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (3000, 16, 16), dtype=np.uint8)
    pixels[2999] = pixels[0] ^ 1
    compared = []
    n_bits = duplicates._n_bits
    monkeypatch.setattr(duplicates, "_n_bits", lambda h: compared.append(len(h)) or n_bits(h))
    hashes = np.full(3000, 0x0F0F0F0F0F0F0F0F, np.uint64)
    found = find(pixels, hashes)
    assert found.near.tolist() == [[0, 2999]]
    assert sum(compared) < 3000 * (28 * duplicates.N_NEIGHBOURS + 1)


def test_pictures_on_disk_give_what_pictures_in_memory_give(tmp_path, monkeypatch):
    pixels = np.concatenate([shapes_on_ground(50)] * 2)
    pixels[50:] ^= 1
    expected = found_in(pixels)
    np.save(tmp_path / "pixels.npy", pixels)
    monkeypatch.setattr(duplicates, "BATCH_BYTES", 3 * pixels[0].nbytes)  # several batches of each
    monkeypatch.setattr(duplicates, "BATCH_PAIRS", 7)
    calls, means = [], duplicates._block_means
    monkeypatch.setattr(duplicates, "_block_means", lambda grey: calls.append(1) or means(grey))
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    found = find(mapped, dhashes(mapped))
    assert len(found.near) == 50
    assert found.near.tolist() == expected.near.tolist()
    assert np.allclose(found.distances, expected.distances)
    assert len(calls) > 30


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_picture_is_no_duplicate(n):
    found = found_in(np.zeros((n, 28, 28), np.uint8))
    assert (equal(found), found.near.shape, found.distances.shape) == ([], (0, 2), (0,))
    assert found.groups().tolist() == [0] * n


def test_groups_are_those_that_a_walk_along_the_pairs_finds():
    rng = np.random.default_rng(6)
    for n_pairs in (0, 5, 40, 200):
        near = rng.integers(0, 120, (n_pairs, 2))
        first = np.arange(120)
        first[rng.choice(np.arange(60, 120), 20, replace=False)] = rng.integers(0, 60, 20)
        links = [*map(tuple, near), *enumerate(first.tolist())]
        expected = list(range(120))
        for _ in range(120):
            for one, other in links:
                expected[one] = expected[other] = min(expected[one], expected[other])
        assert Duplicates(first, near, np.ones(n_pairs)).groups().tolist() == expected


def test_long_chain_of_pairs_is_one_group_without_a_round_a_link():
    near = np.random.default_rng(7).permutation(
        np.stack([np.arange(99_999), np.arange(1, 100_000)], 1)
    )
    start = time.process_time()
    assert not Duplicates(np.arange(100_000), near, np.ones(len(near))).groups().any()
    assert time.process_time() - start < 5


def test_fashion_mnist_holds_no_equal_and_hardly_a_near_picture(test_set):
    found = found_in(test_set.images)
    assert equal(found) == []
    assert len(np.unique(found.near)) <= len(test_set) // 100
