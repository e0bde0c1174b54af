"""What reading and writing HDF5 have in common: numbers of the HDF5 File Format Specification 3.0, and our record."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
# size → offset, precision, exponent's place and size, mantissa's place and size, bias
FLOATS = {2: (0, 16, 10, 5, 0, 10, 15), 4: (0, 32, 23, 8, 0, 23, 127), 8: (0, 64, 52, 11, 0, 52, 1023)}

RECORD = ("densenet_port", "vars", "0")  # path of the record; a place that Keras's own editor of weight files keeps
