"""Numbers of limited precision, as whoever wrote them meant them."""

import numpy as np

from densenet_port.network.contract import digits


def meant(number: np.generic, *, factor: bool) -> float:
    """The decimal that a number of limited precision stands for; of a factor, the inverse of one if that is shorter."""
    decimal, kind = float(str(number)), type(number)
    if not (factor and isinstance(number, np.floating) and np.isfinite(decimal) and decimal):
        return decimal
    for count in range(1, digits(decimal)):
        inverse = float(f"{1 / decimal:.{count}g}")
        if number in (kind(1 / inverse), np.divide(kind(1), kind(inverse))):
            return 1 / inverse
    return decimal
