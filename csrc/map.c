/* Elementwise functions: y[i] = f(x[i]). The arithmetic is in kernels/math.inc; this cuts the array into parts. */
#include "kernels.h"
#include "runtime.h"

/* Parts begin at multiples of it: a whole number of vectors of any instruction set, and of cache lines. */
enum { BLOCK = 64 };

/* Multiply-adds an element is worth, for the decision to wake threads. */
#define OPERATIONS 10.0

struct map {
    void (*kernel)(int64_t n, const void *x, void *y);
    int64_t size, n;
    const char *x;
    char *y;
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Where part begins: the blocks are shared out evenly, the first parts take one more. */
static int64_t part_begin(int64_t n, int part, int parts)
{
    const int64_t blocks = n / BLOCK + (n % BLOCK != 0);
    return smaller(n, (blocks / parts * part + smaller(blocks % parts, part)) * BLOCK);
}

static void map_part(void *context, int part, int parts)
{
    const struct map *map = context;
    const int64_t begin = part_begin(map->n, part, parts), end = part_begin(map->n, part + 1, parts);
    map->kernel(end - begin, map->x + begin * map->size, map->y + begin * map->size);
}

enum cr_status cr_map(enum cr_function function, enum cr_dtype dtype, int64_t n, const void *x, void *y)
{
    if ((int)function < CR_FUNCTION_EXP || (int)function > CR_FUNCTION_RELU)
        return cr_fail(CR_INVALID_ARGUMENT, "function has no meaning: %d", (int)function);
    if (dtype != CR_FLOAT32 && dtype != CR_FLOAT64)
        return cr_fail(CR_INVALID_ARGUMENT, "dtype must be CR_FLOAT32 or CR_FLOAT64, got %d", (int)dtype);
    if (n < 0) return cr_fail(CR_INVALID_ARGUMENT, "n must be at least 0, got %lld", (long long)n);
    if (n == 0) return CR_OK;
    if (!x || !y) return cr_fail(CR_INVALID_ARGUMENT, "%s must not be NULL", x ? "y" : "x");

    const struct cr_kernels *kernels = cr_kernels(dtype);
    int64_t bytes;
    if (cr_multiply_add(n, kernels->size, 0, &bytes))
        return cr_fail(CR_OVERFLOW, "%lld elements of %lld bytes do not fit 63 bits", (long long)n,
                       (long long)kernels->size);
    struct map map = {kernels->map[function], kernels->size, n, x, y};
    cr_parallel(cr_parts(OPERATIONS * (double)n), map_part, &map);
    return CR_OK;
}
