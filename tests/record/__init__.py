"""Scripts that record what real software writes and answers; the tests compare with it."""
