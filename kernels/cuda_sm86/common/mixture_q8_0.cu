// One row through a mixture in q8_0: see `mixture.cuh`.
#include "mixture.cuh"

ENTRIES(q8_0)
