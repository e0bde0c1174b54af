"""CRC-32C, the checksum of TensorFlow's files: that of Castagnoli's polynomial, reflected, begun and ended with ones.

A stored checksum is masked, so that data which holds checksums has a good one of its own:

    masked = (crc rotated right by 15 bits) + 0xa282ead8, modulo 2³²

A checksum is linear. A long text is cut into lanes of equal length that are taken together, four bytes a step; what
follows a lane moves its checksum by so many zero bytes, which is a matrix of 32 × 32 bits.
"""

from functools import lru_cache

import numpy as np

from densenet_port.checkpoint import Array

_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = 0xFFFFFFFF
_MASK = 0xA282EAD8
_SHORT = 4096  # bytes below which lanes cost more than they gain
_LANES, _LEAST = 8192, 64  # at most, at least
_LANE = 256  # bytes that a lane should have


def crc32c(data: bytes, crc: int = 0) -> int:
    """The checksum of bytes, or of those with checksum `crc` and these behind them."""
    crc ^= _ONES
    if len(data) >= _SHORT:
        lanes = 1 << (min(_LANES, max(_LEAST, len(data) // _LANE)).bit_length() - 1)
        words = len(data) // (4 * lanes)
        crc = _together(np.frombuffer(data, "<u4", lanes * words).reshape(lanes, words), crc)
        data = data[4 * lanes * words :]
    table = _bytewise()
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ _ONES


def masked(crc: int) -> int:
    """A checksum as it is stored."""
    return ((crc >> 15 | crc << 17) + _MASK) & _ONES


def _together(words: Array, crc: int) -> int:
    """The register after words of four bytes, `lanes words`, one lane behind the other; lanes are a power of two."""
    low, high = _wordwise()
    registers: Array = np.zeros(len(words), np.uint32)
    registers[0] = crc
    for column in np.ascontiguousarray(words.T):
        registers = registers ^ column
        registers = low[registers & 0xFFFF] ^ high[registers >> 16]
    length = 4 * words.shape[1]
    while len(registers) > 1:
        registers = _moved(_by_zeros(length), registers[0::2]) ^ registers[1::2]
        length *= 2
    return int(registers[0])


@lru_cache(maxsize=1)
def _bytewise() -> list[int]:
    """What a byte makes of a register that is empty."""
    registers: Array = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        registers = registers >> 1 ^ np.where(registers & 1, _POLYNOMIAL, np.uint32(0))
    return [int(register) for register in registers]


@lru_cache(maxsize=1)
def _wordwise() -> tuple[Array, Array]:
    """What the lower and the upper half of a word make of a register, four bytes on."""
    one = np.array(_bytewise(), np.uint32)
    tables = [one]
    for _ in range(3):
        tables.append(tables[-1] >> 8 ^ one[tables[-1] & 255])
    half = np.arange(1 << 16)
    return tables[3][half & 255] ^ tables[2][half >> 8], tables[1][half & 255] ^ tables[0][half >> 8]


@lru_cache(maxsize=256)
def _by_zeros(count: int) -> Array:
    """What zero bytes make of each bit of a register: the matrix by columns."""
    if count == 1:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        table = np.array(_bytewise(), np.uint32)
        one: Array = table[bits & 255] ^ bits >> 8
        return one
    half = _by_zeros(count // 2)
    twice = _moved(half, half)
    return _moved(_by_zeros(1), twice) if count % 2 else twice


def _moved(matrix: Array, registers: Array) -> Array:
    """Registers multiplied by a matrix of bits."""
    product: Array = np.zeros_like(registers)
    for bit in range(32):
        product ^= np.where(registers >> np.uint32(bit) & 1, matrix[bit], np.uint32(0))
    return product
