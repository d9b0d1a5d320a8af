"""Triton kernels of the GPU engine, each over all views of a batch at once: weights, resize, colour, blur.

Filters are products of matrices on the tensor cores, half precision in and float32 out; grey levels are exact in half
precision. A program makes one tile of one crop and is one warp, so that nothing waits for other warps. Programs of one
image follow each other, so that its pixels come from memory about once. The work buffers hold planes, crop by crop.
"""

from __future__ import annotations

import triton
import triton.language as tl

from loaders.multicrop import crop_table as table
from loaders.multicrop.kernel_colour import jitter, luma

_LEVEL, _THRESHOLD = tl.constexpr(1 / 255), tl.constexpr(128 / 255)
# Added to a float32, it rounds to whole numbers, which are then its lowest bits. The rounding and converting
# instructions are several times slower.
_ROUND = tl.constexpr(1.5 * 2**23)
# fmt: off
_TALL, _WIDE, _STEP = map(tl.constexpr, (table.TALL, table.WIDE, table.STEP))
_TILE_COLUMNS, _VIEW, _TILE_Y, _TILE_X, _SIZE, _START, _FIRST_TILE, _TILES, _STRIP_Y, _STRIP_X = map(tl.constexpr, (
    table.TILE_COLUMNS, table.VIEW, table.TILE_Y, table.TILE_X, table.SIZE, table.START,
    table.FIRST_TILE, table.TILES, table.STRIP_Y, table.STRIP_X))
_STRIP_COLUMNS, _STRIP_VIEW, _STRIP_AXIS, _STRIP_BEGIN, _STRIP_END = map(tl.constexpr, (
    table.STRIP_COLUMNS, table.STRIP_VIEW, table.STRIP_AXIS, table.STRIP_BEGIN, table.STRIP_END))
_TAP_COLUMNS, _FIRST_TAP, _LAST_TAP, _STEPS, _BAND = map(tl.constexpr, (
    table.TAP_COLUMNS, table.FIRST_TAP, table.LAST_TAP, table.STEPS, table.BAND))
_PLACE_COLUMNS, _OFFSET, _ROW_STRIDE, _COLUMN_STRIDE, _CHANNEL_STRIDE = map(tl.constexpr, (
    table.PLACE_COLUMNS, table.OFFSET, table.ROW_STRIDE, table.COLUMN_STRIDE, table.CHANNEL_STRIDE))
_NUMBER_COLUMNS, _WINDOW_Y, _WINDOW_X, _FLIP, _OPERATIONS, _BEFORE_CONTRAST = map(tl.constexpr, (
    table.NUMBER_COLUMNS, table.WINDOW_Y, table.WINDOW_X, table.FLIP, table.OPERATIONS, table.BEFORE_CONTRAST))
_GRAYSCALE, _BLUR_SIGMA, _BLUR_RADIUS, _BLUR_PEAK, _SOLARIZE = map(tl.constexpr, (
    table.GRAYSCALE, table.BLUR_SIGMA, table.BLUR_RADIUS, table.BLUR_PEAK, table.SOLARIZE))
# fmt: on


@triton.jit
def weights_kernel(numbers, taps, strips, bands, views, strip_count, CUBIC: tl.constexpr):
    """The resize's weights for one strip of one crop."""
    program = tl.program_id(0)
    sample = program // strip_count
    strip, tap = strips + (program % strip_count) * _STRIP_COLUMNS, taps + program * _TAP_COLUMNS
    row = numbers + (sample * views + tl.load(strip + _STRIP_VIEW)) * _NUMBER_COLUMNS
    if tl.load(strip + _STRIP_AXIS) == 0:
        _write_band(row + _WINDOW_Y, strip, tap, bands, _TALL, CUBIC)
    else:
        _write_band(row + _WINDOW_X, strip, tap, bands, _WIDE, CUBIC)


@triton.jit
def _write_band(window, strip, tap, bands, SIDE: tl.constexpr, CUBIC: tl.constexpr):
    """Writes blocks (SIDE, STEP): of each output pixel, the weights of the next taps."""
    origin, scale = tl.load(window), tl.load(window + 1)
    first, last, steps = tl.load(tap + _FIRST_TAP), tl.load(tap + _LAST_TAP), tl.load(tap + _STEPS)
    begin, end = tl.load(strip + _STRIP_BEGIN), tl.load(strip + _STRIP_END)
    outputs, step = tl.arange(0, SIDE), tl.arange(0, _STEP)
    centres = (origin + (tl.minimum(begin + outputs, end - 1) + 0.5) * scale)[:, None]
    sharpness = 1 / tl.maximum(scale, 1.0)
    total = tl.zeros((SIDE,), tl.float32)
    for i in range(0, steps):
        total += tl.sum(_filter((first + i * _STEP + step)[None, :], centres, sharpness, last, CUBIC), axis=1)
    normalise = (1 / total)[:, None]
    band = bands + tl.load(tap + _BAND).to(tl.int64) * _STEP + outputs[:, None] * _STEP + step[None, :]
    for i in range(0, steps):
        weights = _filter((first + i * _STEP + step)[None, :], centres, sharpness, last, CUBIC)
        tl.store(band + i * (SIDE * _STEP), (weights * normalise).to(tl.float16))


@triton.jit
def _filter(taps, centres, sharpness, last, CUBIC: tl.constexpr):
    """Keys' cubic with a = -0.5, or a triangle; widened when shrinking, zero past the last tap."""
    distance = tl.abs((taps + 0.5) - centres) * sharpness
    if CUBIC:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = tl.where(distance < 1, near, tl.where(distance < 2, far, 0.0))
    else:
        weights = tl.maximum(1 - distance, 0.0)
    return tl.where(taps <= last, weights, 0.0)


@triton.jit(do_not_specialize=["slots"])
def resize_kernel(
    pixels, places, numbers, taps, bands, tiles, levels, sums, slots, views, tile_count, strip_count,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Resizes a tile to grey levels, and sums its luma as the contrast of its crop will meet it.

    Columns are filtered first, a block of source rows at a time, and rounded; then rows. Tiles are kept with x before
    y here: so the first product's result is the second's operand without passing through shared memory.
    """
    program = tl.program_id(0)
    sample = program // tile_count
    tile = tiles + (program % tile_count) * _TILE_COLUMNS
    crop = sample * views + tl.load(tile + _VIEW)
    place, row = places + crop * _PLACE_COLUMNS, numbers + crop * _NUMBER_COLUMNS
    pixel, row_stride = pixels + tl.load(place + _OFFSET), tl.load(place + _ROW_STRIDE)
    column_stride = tl.load(place + _COLUMN_STRIDE)
    channel_stride = 1 if INTERLEAVED else tl.load(place + _CHANNEL_STRIDE)
    y_taps = taps + (sample * strip_count + tl.load(tile + _STRIP_Y)) * _TAP_COLUMNS
    x_taps = taps + (sample * strip_count + tl.load(tile + _STRIP_X)) * _TAP_COLUMNS
    y_first, y_last, y_steps = tl.load(y_taps + _FIRST_TAP), tl.load(y_taps + _LAST_TAP), tl.load(y_taps + _STEPS)
    x_first, x_last, x_steps = tl.load(x_taps + _FIRST_TAP), tl.load(x_taps + _LAST_TAP), tl.load(x_taps + _STEPS)
    step = tl.arange(0, _STEP)
    y_band = bands + tl.load(y_taps + _BAND).to(tl.int64) * _STEP + tl.arange(0, _TALL)[:, None] * _STEP + step[None, :]
    x_band = bands + tl.load(x_taps + _BAND).to(tl.int64) * _STEP + tl.arange(0, _WIDE)[:, None] * _STEP + step[None, :]

    red = tl.zeros((_WIDE, _TALL), tl.float32)
    green = tl.zeros((_WIDE, _TALL), tl.float32)
    blue = tl.zeros((_WIDE, _TALL), tl.float32)
    for y in range(0, y_steps):
        # Taps past the last weigh nothing, but must be somewhere.
        rows = tl.minimum(y_first + y * _STEP + step, y_last)
        row_start = (pixel + rows.to(tl.int64) * row_stride)[:, None]
        narrow_red = tl.zeros((_WIDE, _STEP), tl.float32)
        narrow_green = tl.zeros((_WIDE, _STEP), tl.float32)
        narrow_blue = tl.zeros((_WIDE, _STEP), tl.float32)
        for x in range(0, x_steps):
            columns = tl.minimum(x_first + x * _STEP + step, x_last)
            at = row_start + (columns * column_stride.to(tl.int32))[None, :]
            red_block, green_block = tl.load(at), tl.load(at + channel_stride)
            blue_block = tl.load(at + 2 * channel_stride)
            weights = tl.load(x_band + x * (_WIDE * _STEP))
            narrow_red = tl.dot(weights, tl.trans(_to_half(red_block)), narrow_red)
            narrow_green = tl.dot(weights, tl.trans(_to_half(green_block)), narrow_green)
            narrow_blue = tl.dot(weights, tl.trans(_to_half(blue_block)), narrow_blue)
        weights = tl.trans(tl.load(y_band + y * (_TALL * _STEP)))
        red = tl.dot(_round(narrow_red).to(tl.float16), weights, red)
        green = tl.dot(_round(narrow_green).to(tl.float16), weights, green)
        blue = tl.dot(_round(narrow_blue).to(tl.float16), weights, blue)

    size, corner_y, corner_x = tl.load(tile + _SIZE), tl.load(tile + _TILE_Y), tl.load(tile + _TILE_X)
    inside, position = _positions(corner_y, corner_x, size)
    plane = levels + _crop_start(tile, slots, sample, size)
    tl.store(plane + position, tl.trans(_to_byte(red)), inside)
    tl.store(plane + size * size + position, tl.trans(_to_byte(green)), inside)
    tl.store(plane + 2 * size * size + position, tl.trans(_to_byte(blue)), inside)

    if tl.load(row + _OPERATIONS) > 0:
        red, green, blue = _round(red) * _LEVEL, _round(green) * _LEVEL, _round(blue) * _LEVEL
        red, green, blue = jitter(red, green, blue, tl.load(row + _BEFORE_CONTRAST), row, 0.0)
        down, across = corner_y + tl.arange(0, _TALL), corner_x + tl.arange(0, _WIDE)
        counts = (across < size)[:, None] & (down < size)[None, :]
        tl.store(sums + program, tl.sum(tl.where(counts, luma(red, green, blue), 0.0)))


@triton.jit(do_not_specialize=["slots"])
def colour_kernel(
    levels, sums, numbers, tiles, normalise, blurred, out, slots, views, tile_count,
    MOST_TILES: tl.constexpr,
):  # fmt: skip
    """Jitter and grayscale; then the finished crop, or work in half precision for the blur."""
    program = tl.program_id(0)
    sample = program // tile_count
    tile = tiles + (program % tile_count) * _TILE_COLUMNS
    row = numbers + (sample * views + tl.load(tile + _VIEW)) * _NUMBER_COLUMNS
    size, corner_y, corner_x = tl.load(tile + _SIZE), tl.load(tile + _TILE_Y), tl.load(tile + _TILE_X)
    inside, position = _positions(corner_y, corner_x, size)
    start = _crop_start(tile, slots, sample, size)
    plane = levels + start
    red = tl.load(plane + position, inside, 0).to(tl.float32) * _LEVEL
    green = tl.load(plane + size * size + position, inside, 0).to(tl.float32) * _LEVEL
    blue = tl.load(plane + 2 * size * size + position, inside, 0).to(tl.float32) * _LEVEL

    operations = tl.load(row + _OPERATIONS)
    if operations > 0:
        part, parts = tl.arange(0, MOST_TILES), tl.load(tile + _TILES)
        of_tiles = tl.load(sums + sample * tile_count + tl.load(tile + _FIRST_TILE) + part, part < parts, 0.0)
        red, green, blue = jitter(red, green, blue, operations, row, tl.sum(of_tiles) / (size * size))
    if tl.load(row + _GRAYSCALE) > 0:
        grey = luma(red, green, blue)
        red, green, blue = grey, grey, grey

    if tl.load(row + _BLUR_SIGMA) > 0:
        work = blurred + start
        tl.store(work + position, red.to(tl.float16), inside)
        tl.store(work + size * size + position, green.to(tl.float16), inside)
        tl.store(work + 2 * size * size + position, blue.to(tl.float16), inside)
    else:
        _finish(red, green, blue, row, normalise, out + start, corner_y, corner_x, size)


@triton.jit(do_not_specialize=["slots"])
def blur_kernel(blurred, numbers, tiles, normalise, out, slots, views, tile_count):
    """Blurs a tile of a crop that is to be blurred, and finishes it; as in the resize, x comes before y."""
    program = tl.program_id(0)
    sample = program // tile_count
    tile = tiles + (program % tile_count) * _TILE_COLUMNS
    row = numbers + (sample * views + tl.load(tile + _VIEW)) * _NUMBER_COLUMNS
    sigma = tl.load(row + _BLUR_SIGMA)
    if sigma > 0:
        size, corner_y, corner_x = tl.load(tile + _SIZE), tl.load(tile + _TILE_Y), tl.load(tile + _TILE_X)
        radius, peak = tl.load(row + _BLUR_RADIUS).to(tl.int32), tl.load(row + _BLUR_PEAK)
        sharpness = 0.8493218 / sigma  # the square root of log2(e) / 2: for a power of two
        start = _crop_start(tile, slots, sample, size)
        y_outputs, x_outputs = corner_y + tl.arange(0, _TALL), corner_x + tl.arange(0, _WIDE)
        y_end, x_end = tl.minimum(corner_y + _TALL, size) + radius, tl.minimum(corner_x + _WIDE, size) + radius

        red = tl.zeros((_WIDE, _TALL), tl.float32)
        green = tl.zeros((_WIDE, _TALL), tl.float32)
        blue = tl.zeros((_WIDE, _TALL), tl.float32)
        for y in range(corner_y - radius, y_end, _STEP):
            rows = y + tl.arange(0, _STEP)
            row_start = (blurred + start + _mirror(rows, size) * size)[:, None]
            soft_red = tl.zeros((_WIDE, _STEP), tl.float32)
            soft_green = tl.zeros((_WIDE, _STEP), tl.float32)
            soft_blue = tl.zeros((_WIDE, _STEP), tl.float32)
            for x in range(corner_x - radius, x_end, _STEP):
                columns = x + tl.arange(0, _STEP)
                at = row_start + _mirror(columns, size)[None, :]
                red_block, green_block = tl.load(at), tl.load(at + size * size)
                blue_block = tl.load(at + 2 * size * size)
                weights = _gaussian(columns[None, :] - x_outputs[:, None], sharpness, radius, peak)
                soft_red = tl.dot(weights, tl.trans(red_block), soft_red)
                soft_green = tl.dot(weights, tl.trans(green_block), soft_green)
                soft_blue = tl.dot(weights, tl.trans(blue_block), soft_blue)
            weights = _gaussian(rows[:, None] - y_outputs[None, :], sharpness, radius, peak)
            red = tl.dot(soft_red.to(tl.float16), weights, red)
            green = tl.dot(soft_green.to(tl.float16), weights, green)
            blue = tl.dot(soft_blue.to(tl.float16), weights, blue)
        red, green, blue = tl.trans(red), tl.trans(green), tl.trans(blue)
        _finish(red, green, blue, row, normalise, out + start, corner_y, corner_x, size)


@triton.jit
def _gaussian(distance, sharpness, radius, peak):
    scaled = distance * sharpness
    return tl.where(tl.abs(distance) <= radius, peak * tl.exp2(-scaled * scaled), 0.0).to(tl.float16)


@triton.jit
def _mirror(positions, size):
    """Positions folded back into the crop, about its outermost pixels."""
    period = tl.maximum(2 * size - 2, 1)
    positions = tl.abs(positions) % period
    return tl.where(positions >= size, period - positions, positions)


@triton.jit
def _to_half(levels):
    # The bits of 1024 plus the level.
    return ((levels.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - 1024.0).to(tl.float16)


@triton.jit
def _to_byte(values):
    return (tl.minimum(tl.maximum(values, 0.0), 255.0) + _ROUND).to(tl.int32, bitcast=True).to(tl.uint8)


@triton.jit
def _round(values):
    return tl.minimum(tl.maximum((values + _ROUND) - _ROUND, 0.0), 255.0)


@triton.jit
def _crop_start(tile, slots, sample, size):
    """Where the crop begins in the work buffers and the output, each of them view by view."""
    return (tl.load(tile + _START).to(tl.int64) * slots + sample.to(tl.int64) * size * size) * 3


@triton.jit
def _positions(corner_y, corner_x, size):
    """Of a tile's pixels (TALL, WIDE): which lie in the crop, and where in a plane of it."""
    y, x = (corner_y + tl.arange(0, _TALL))[:, None], (corner_x + tl.arange(0, _WIDE))[None, :]
    return (y < size) & (x < size), y * size + x


@triton.jit
def _finish(red, green, blue, row, normalise, target, corner_y, corner_x, size):
    """Solarises, flips, normalises and stores a tile, channels interleaved."""
    if tl.load(row + _SOLARIZE) > 0:
        red = tl.where(red >= _THRESHOLD, 1 - red, red)
        green = tl.where(green >= _THRESHOLD, 1 - green, green)
        blue = tl.where(blue >= _THRESHOLD, 1 - blue, blue)
    y, x = (corner_y + tl.arange(0, _TALL))[:, None], (corner_x + tl.arange(0, _WIDE))[None, :]
    inside = (y < size) & (x < size)
    x = tl.where(tl.load(row + _FLIP) > 0, size - 1 - x, x)
    at = target + (y * size + x) * 3
    kind = target.dtype.element_ty
    tl.store(at, (red * tl.load(normalise) + tl.load(normalise + 3)).to(kind), inside)
    tl.store(at + 1, (green * tl.load(normalise + 1) + tl.load(normalise + 4)).to(kind), inside)
    tl.store(at + 2, (blue * tl.load(normalise + 2) + tl.load(normalise + 5)).to(kind), inside)
