/* Accuracy of exp, tanh, sigmoid and relu, in units in the last place (ULP) of the exact value.
 *
 *     ulp [--isa NAME] [--exhaustive] [--count LOG2]
 *
 * Default: every available instruction set, 2^24 float32 inputs, one in every run of 256 bit patterns (so all
 * exponents, both signs, infinities and NaN), and 2^20 float64 inputs by exponent. --count sets the 24 and, 4 less,
 * the 20; --exhaustive takes all 2^32 float32. Prints the largest error and its argument for each function and type;
 * exits with 1 if one exceeds 2 ULP or a rule of `broken_rule` is broken.
 *
 *     make -C csrc && cc -O2 -Icsrc tests/c/ulp.c build/c/libconvrnn.a -lquadmath -lm -pthread -o ulp
 *
 * The reference is libm in double for float32; for float64 libquadmath with GCC on x86, else long double. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convrnn.h"

#if defined(__SIZEOF_FLOAT128__) && __has_include(<quadmath.h>)
#include <quadmath.h>
typedef __float128 wide;
#define wide_exp expq
#define wide_tanh tanhq
#else
typedef long double wide;
#define wide_exp expl
#define wide_tanh tanhl
#endif

#define LIMIT 2.0 /* ULP, the promise of convrnn.h */

enum { FUNCTIONS = 4, BLOCK = 4096, NEIGHBOURS = 64 };

static const char *const function_names[FUNCTIONS] = {"exp", "tanh", "sigmoid", "relu"};
static const char *const dtype_names[] = {"float32", "float64"};

/* One block of elements, of the type that the dtype says. */
union block {
    float f32[BLOCK];
    double f64[BLOCK];
};

/* What has been seen of one function and one type. */
struct record {
    double worst, argument;
    const char *rule; /* the last one broken, or NULL */
    double rule_argument;
};

static double get(enum cr_dtype dtype, const union block *b, int i)
{
    return dtype == CR_FLOAT32 ? (double)b->f32[i] : b->f64[i];
}

static void set(enum cr_dtype dtype, union block *b, int i, double value)
{
    if (dtype == CR_FLOAT32)
        b->f32[i] = (float)value;
    else
        b->f64[i] = value;
}

static void *address(enum cr_dtype dtype, union block *b, int i)
{
    return dtype == CR_FLOAT32 ? (void *)(b->f32 + i) : (void *)(b->f64 + i);
}

/* ------------------------------------------------------------------------------------------- reference ---- */

/* The exact value is value + rest * ULP. */
struct exact {
    double value, rest;
};

/* log2 of the ULP of numbers of this size. */
static int ulp_exponent(enum cr_dtype dtype, double value)
{
    const int lowest = dtype == CR_FLOAT32 ? FLT_MIN_EXP : DBL_MIN_EXP;
    const int digits = dtype == CR_FLOAT32 ? FLT_MANT_DIG : DBL_MANT_DIG;
    int exponent = 0;
    frexp(value, &exponent);
    return (value != 0 && exponent > lowest ? exponent : lowest) - digits;
}

static double double_sigmoid(double x)
{
    const double e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

static struct exact exact_f32(enum cr_function function, double x)
{
    switch (function) {
    case CR_FUNCTION_EXP: return (struct exact){exp(x), 0};
    case CR_FUNCTION_TANH: return (struct exact){tanh(x), 0};
    case CR_FUNCTION_SIGMOID: return (struct exact){double_sigmoid(x), 0};
    default: return (struct exact){x < 0 ? 0 : x, 0};
    }
}

static wide wide_sigmoid(double x)
{
    const wide e = wide_exp(-(wide)fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}

static struct exact exact_f64(enum cr_function function, double x)
{
    wide y;
    switch (function) {
    case CR_FUNCTION_EXP: y = wide_exp((wide)x); break;
    case CR_FUNCTION_TANH: y = wide_tanh((wide)x); break;
    case CR_FUNCTION_SIGMOID: y = wide_sigmoid(x); break;
    default: y = x < 0 ? 0 : (wide)x;
    }
    struct exact exact = {(double)y, 0};
    /* Scaled before it is rounded: among subnormals the rest itself would vanish. */
    if (isfinite(exact.value)) {
        const int exponent = ulp_exponent(CR_FLOAT64, exact.value);
        wide rest = y - (wide)exact.value;
        for (int left = -exponent; left > 0; left -= 512) rest *= (wide)ldexp(1, left < 512 ? left : 512);
        exact.rest = exponent < 0 ? (double)rest : ldexp((double)rest, -exponent);
    }
    return exact;
}

/* |y - exact| in ULP of the exact value. Infinity counts as the neighbour of the largest finite number. */
static double error(enum cr_dtype dtype, struct exact exact, double y)
{
    const double rounded = dtype == CR_FLOAT32 ? (double)(float)exact.value : exact.value;
    if (isinf(rounded) || isinf(y)) {
        const double largest = dtype == CR_FLOAT32 ? FLT_MAX : DBL_MAX;
        if (rounded == y) return 0;
        return fmin(fabs(rounded), fabs(y)) == largest && rounded * y > 0 ? 1 : INFINITY;
    }
    return fabs(ldexp(y - exact.value, -ulp_exponent(dtype, exact.value)) - exact.rest);
}

/* --------------------------------------------------------------------------------------------- checking ---- */

/* The rule that y = function(x) breaks, or NULL. */
static const char *broken_rule(enum cr_function function, enum cr_dtype dtype, double x, double y)
{
    const double normal = dtype == CR_FLOAT32 ? FLT_MIN : DBL_MIN;

    if (isnan(x) || isnan(y)) return isnan(x) && isnan(y) ? NULL : "NaN if and only if x is NaN";
    switch (function) {
    case CR_FUNCTION_EXP:
        if (signbit(y)) return "exp is not negative";
        if (x == 0 && y != 1) return "exp(0) = 1";
        if (isinf(x) && y != (x > 0 ? x : 0)) return "exp(-inf) = 0, exp(inf) = inf";
        break;
    case CR_FUNCTION_TANH:
        if (!signbit(x) != !signbit(y)) return "tanh has the sign of x";
        if (fabs(y) > 1) return "|tanh| <= 1";
        if (fabs(x) >= 20 && fabs(y) != 1) return "tanh saturates to exactly 1 and -1";
        if (fabs(x) < normal && y != x) return "tanh of a subnormal is x";
        break;
    case CR_FUNCTION_SIGMOID:
        if (signbit(y) || y > 1) return "0 <= sigmoid <= 1";
        if (x == 0 && y != 0.5) return "sigmoid(0) = 0.5";
        if (x >= 40 && y != 1) return "sigmoid saturates to exactly 1";
        if (x <= -800 && y != 0) return "sigmoid saturates to exactly 0";
        break;
    default:
        if (y != (x > 0 ? x : 0)) return "relu is max(x, 0)";
        if (x < 0 && signbit(y)) return "relu of a negative is +0";
    }
    return NULL;
}

static void map(enum cr_function function, enum cr_dtype dtype, int n, const void *x, void *y)
{
    if (cr_map(function, dtype, n, x, y) != CR_OK) {
        fprintf(stderr, "cr_map: %s\n", cr_error_message());
        exit(2);
    }
}

/* The first index in [first, n) where sign * a and b differ, -0 from 0 too, and are not both NaN; or -1. */
static int first_difference(enum cr_dtype dtype, const union block *a, double sign, const union block *b, int first,
                            int n)
{
    for (int i = first; i < n; i++) {
        const double u = sign * get(dtype, a, i), v = get(dtype, b, i);
        if (!(isnan(u) && isnan(v)) && (u != v || !signbit(u) != !signbit(v))) return i;
    }
    return -1;
}

static void note_rule(struct record *record, const char *rule, double argument)
{
    record->rule = rule;
    record->rule_argument = argument;
}

static void check_block(struct record *record, enum cr_function function, enum cr_dtype dtype, int n,
                        const union block *x)
{
    static union block y, other, negative;
    int different;

    map(function, dtype, n, x, &y);
    for (int i = 0; i < n; i++) {
        const double argument = get(dtype, x, i), result = get(dtype, &y, i);
        const char *rule = broken_rule(function, dtype, argument, result);
        if (rule != NULL) note_rule(record, rule, argument);
        if (isnan(argument)) continue;
        const struct exact exact =
            dtype == CR_FLOAT32 ? exact_f32(function, argument) : exact_f64(function, argument);
        const double distance = error(dtype, exact, result);
        if (!(distance <= record->worst)) {
            record->worst = distance;
            record->argument = argument;
        }
    }

    /* One element further in, and in place: other lanes, another tail, the same bits. */
    memcpy(&other, x, sizeof other);
    map(function, dtype, n - 1, address(dtype, &other, 1), address(dtype, &other, 1));
    different = first_difference(dtype, &other, 1, &y, 1, n);
    if (different >= 0) note_rule(record, "a result does not depend on its position", get(dtype, x, different));

    if (function == CR_FUNCTION_TANH) {
        for (int i = 0; i < n; i++) set(dtype, &negative, i, -get(dtype, x, i));
        map(function, dtype, n, &negative, &other);
        different = first_difference(dtype, &other, -1, &y, 0, n);
        if (different >= 0) note_rule(record, "tanh(-x) = -tanh(x)", get(dtype, x, different));
    }
}

/* ----------------------------------------------------------------------------------------------- inputs ---- */

/* 64 well-mixed bits of i (the finalizer of SplitMix64). */
static uint64_t mix(uint64_t i)
{
    i += 0x9e3779b97f4a7c15;
    i = (i ^ i >> 30) * 0xbf58476d1ce4e5b9;
    i = (i ^ i >> 27) * 0x94d049bb133111eb;
    return i ^ i >> 31;
}

/* Input i of 2^log2_count: the upper bits count, the lower are mixed. Of the float64 every other one is drawn from
 * the exponents -24 ... 9 instead, where the functions do not yet equal their limits. */
static void set_input(enum cr_dtype dtype, union block *x, int at, uint64_t i, int log2_count)
{
    if (dtype == CR_FLOAT32) {
        const uint64_t below = ((uint64_t)1 << (32 - log2_count)) - 1;
        const uint32_t bits = (uint32_t)(i << (32 - log2_count) | (mix(i) & below));
        memcpy(x->f32 + at, &bits, sizeof bits);
    } else {
        const uint64_t below = ((uint64_t)1 << (64 - log2_count)) - 1;
        uint64_t bits = i << (64 - log2_count) | (mix(i) & below);
        if (i % 2) {
            const uint64_t exponent = 1023 - 24 + i / 2 % 34;
            bits = (mix(i) & ~((uint64_t)0x7ff << 52)) | exponent << 52;
        }
        memcpy(x->f64 + at, &bits, sizeof bits);
    }
}

/* NEIGHBOURS numbers of either sign from `middle` upwards and downwards, through zero and infinity if they come. */
static int set_neighbours(enum cr_dtype dtype, union block *x, double middle)
{
    double up = middle, down = middle;
    int n = 0;
    for (int i = 0; i < NEIGHBOURS; i++) {
        set(dtype, x, n++, up);
        set(dtype, x, n++, -up);
        set(dtype, x, n++, down);
        set(dtype, x, n++, -down);
        up = dtype == CR_FLOAT32 ? (double)nextafterf((float)up, INFINITY) : nextafter(up, INFINITY);
        down = dtype == CR_FLOAT32 ? (double)nextafterf((float)down, -INFINITY) : nextafter(down, -INFINITY);
    }
    return n;
}

/* Where results begin to be subnormal, zero, infinite, 1, where two formulas may meet, and the ends of the types. */
static const double edges[] = {
    0,       0.25,    0.34657359027997264, 0.5,       0.55,      0.6,        0.625,     0.7,       1,
    9.01,    10,      16.6355323334,       17.328679, 19.06,     20,         36.7368,   37.42995,  87.33654475,
    88.3762, 88.7228, 103.2789,            103.9720,  708.39641, 709.436139, 709.78271, 744.44007, 745.13321,
    FLT_MIN, FLT_MAX, DBL_MIN,             DBL_MAX,   INFINITY,  NAN};

/* All inputs of one function and one type. */
static struct record check(enum cr_function function, enum cr_dtype dtype, int log2_count)
{
    static union block x;
    struct record record = {0, 0, NULL, 0};

    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        check_block(&record, function, dtype, set_neighbours(dtype, &x, edges[i]), &x);
    /* One less than a block at a time, so that there is a tail. */
    const uint64_t count = (uint64_t)1 << log2_count;
    for (uint64_t first = 0; first < count; first += BLOCK - 1) {
        const int n = count - first < BLOCK - 1 ? (int)(count - first) : BLOCK - 1;
        for (int i = 0; i < n; i++) set_input(dtype, &x, i, first + (uint64_t)i, log2_count);
        check_block(&record, function, dtype, n, &x);
    }
    return record;
}

/* Prints the figures of one instruction set; returns whether they hold. */
static int check_isa(const char *isa, int log2_f32, int log2_f64)
{
    int good = 1;
    if (cr_set_isa(isa) != CR_OK) {
        fprintf(stderr, "ulp: %s\n", cr_error_message());
        return 0;
    }
    for (int dtype = CR_FLOAT32; dtype <= CR_FLOAT64; dtype++)
        for (int function = 0; function < FUNCTIONS; function++) {
            const struct record record =
                check((enum cr_function)function, (enum cr_dtype)dtype, dtype == CR_FLOAT32 ? log2_f32 : log2_f64);
            printf("%-8s %s %-8s max %.4f ULP at %.17g (%a)\n", isa, dtype_names[dtype], function_names[function],
                   record.worst, record.argument, record.argument);
            if (record.rule != NULL)
                printf("    BROKEN: %s, at %.17g (%a)\n", record.rule, record.rule_argument, record.rule_argument);
            fflush(stdout);
            good &= record.worst <= LIMIT && record.rule == NULL;
        }
    return good;
}

int main(int argc, char **argv)
{
    const char *const *isas;
    int isa_count = cr_available_isas(&isas), log2_f32 = 24, log2_f64 = 20;
    const char *wanted[1];

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--exhaustive") == 0) {
            log2_f32 = 32;
        } else if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
            wanted[0] = argv[++i];
            isas = wanted;
            isa_count = 1;
        } else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc && atoi(argv[i + 1]) >= 12 &&
                   atoi(argv[i + 1]) <= 32) {
            log2_f32 = atoi(argv[++i]);
            log2_f64 = log2_f32 - 4;
        } else {
            fprintf(stderr, "usage: %s [--isa NAME] [--exhaustive] [--count LOG2], LOG2 from 12 to 32\n", argv[0]);
            return 2;
        }
    }
    int good = 1;
    for (int i = 0; i < isa_count; i++) good &= check_isa(isas[i], log2_f32, log2_f64);
    return good ? 0 : 1;
}
