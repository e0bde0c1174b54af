"""The tests, in the rooms of the package; `support` and `record` hold what they stand on."""
