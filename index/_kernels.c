/* Integer kernels of late-interaction search; loaded by kernels.py through ctypes, which releases the GIL.
 *
 * Every path (AVX-512 VNNI, AVX2, portable) computes the same integers, and the few floating-point operations come in
 * the same order without fused multiply-add (-ffp-contract=off), so all give the same scores to the bit. The NumPy
 * fallback in fallback.py does as well.
 *
 * A token code row holds `bits` bits a dimension. With w = dim * bits / 8 bytes, field f of byte b is dimension
 * b + f * w. Field values index a table of 8-bit levels, stored with an offset of 128.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define X86 1
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define X86 0
#define CLONES
#endif

#define LANES 16     /* query tokens scored side by side */
#define TILE_BYTES 16384 /* decoded token vectors, so that they stay in the first-level cache */
#define BLOCK 8 /* token vectors scored at a time */
#define OFFSET 128
#define CHUNK 64    /* bytes of a register */
#define MOST_QUADS 6 /* accumulators: MOST_QUADS * MOST_SETS */
#define MOST_SETS 4

/* Zeros on a cache line's border: loads and stores across one take twice as long. */
static void *lines(size_t bytes) {
    size_t rounded = (bytes + 63) / 64 * 64;
    void *memory = aligned_alloc(64, rounded ? rounded : 64);
    return memory ? memset(memory, 0, rounded) : NULL;
}

enum { PATH_PORTABLE = 0, PATH_AVX2 = 1, PATH_VNNI = 2 };

int hr_best_path(void) {
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return PATH_VNNI;
    if (__builtin_cpu_supports("avx2")) return PATH_AVX2;
#endif
    return PATH_PORTABLE;
}

/* Decoding n rows: codes -> offset levels, one byte a dimension. */
typedef void (*decode_function)(const uint8_t *codes, int n, int dim, int bits, const uint8_t *levels, uint8_t *out);

static void decode_portable(const uint8_t *codes, int n, int dim, int bits, const uint8_t *levels, uint8_t *out) {
    int width = dim * bits / 8, fields = 8 / bits, mask = (1 << bits) - 1;
    for (int t = 0; t < n; t++, codes += width, out += dim)
        for (int f = 0; f < fields; f++)
            for (int b = 0; b < width; b++) out[f * width + b] = levels[(codes[b] >> (f * bits)) & mask];
}

#if X86
/* 2 bits have four levels, and none may be read beyond them. */
static __m128i load_levels(const uint8_t *levels, int bits) {
    uint8_t table[16] = {0};
    memcpy(table, levels, (size_t)1 << bits);
    return _mm_loadu_si128((const __m128i *)table);
}

__attribute__((target("avx2"))) static void decode_avx2(const uint8_t *codes, int n, int dim, int bits,
                                                        const uint8_t *levels, uint8_t *out) {
    int width = dim * bits / 8, fields = 8 / bits, limit = (1 << bits) - 1;
    __m256i table = _mm256_broadcastsi128_si256(load_levels(levels, bits));
    __m256i mask = _mm256_set1_epi8((char)limit);
    for (int t = 0; t < n; t++, codes += width, out += dim) {
        int b = 0;
        for (; b + 32 <= width; b += 32) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(codes + b));
            for (int f = 0; f < fields; f++, v = _mm256_srli_epi16(v, bits))
                _mm256_storeu_si256((__m256i *)(out + f * width + b),
                                    _mm256_shuffle_epi8(table, _mm256_and_si256(v, mask)));
        }
        for (; b < width; b++)
            for (int f = 0; f < fields; f++) out[f * width + b] = levels[(codes[b] >> (f * bits)) & limit];
    }
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) static void decode_vnni(const uint8_t *codes, int n, int dim,
                                                                             int bits, const uint8_t *levels,
                                                                             uint8_t *out) {
    int width = dim * bits / 8, fields = 8 / bits;
    __m128i shift = _mm_cvtsi32_si128(bits);
    __m512i table = _mm512_broadcast_i32x4(load_levels(levels, bits));
    __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    for (int t = 0; t < n; t++, codes += width, out += dim)
        for (int b = 0; b < width; b += 64) {
            __mmask64 keep = width - b >= 64 ? ~0ULL : (1ULL << (width - b)) - 1;
            __m512i v = _mm512_maskz_loadu_epi8(keep, codes + b);
            for (int f = 0; f < fields; f++, v = _mm512_srl_epi16(v, shift))
                _mm512_mask_storeu_epi8(out + f * width + b, keep,
                                        _mm512_shuffle_epi8(table, _mm512_and_si512(v, mask)));
        }
}
#endif

/* Dot products of decoded rows with a group of LANES query tokens, then scale and running maximum.
 *
 * rows: (n, dim) offset levels; query: the group as `pack` laid it out; bias: (LANES,) = -OFFSET * sum of each query
 * token's values, which takes the offset out again; best: (LANES,) running maxima of scale * dot product. n is 1 or a multiple of
 * BLOCK.
 */
typedef void (*score_function)(const uint8_t *rows, int n, int groups, int dim, const void *query, const int32_t *bias,
                               const float *scales, float *best);

typedef float four_floats __attribute__((vector_size(16)));

static void score_portable(const uint8_t *rows, int n, int groups, int dim, const void *query, const int32_t *bias,
                           const float *scales, float *best) {
    /* In float32, which is fast everywhere, and exact here: sums of SUMMED products stay below 2^24. */
    enum { SUMMED = 512, WORDS = LANES / 4 };
    const four_floats *packed = query; /* (groups, dim, LANES) */
    for (int t = 0; t < n; t++)
        for (int g = 0; g < groups; g++) {
            int32_t total[LANES];
            memcpy(total, bias + g * LANES, sizeof total);
            for (int from = 0; from < dim; from += SUMMED) {
                four_floats acc[WORDS] = {{0}};
                int to = dim < from + SUMMED ? dim : from + SUMMED;
                for (int d = from; d < to; d++) {
                    float level = rows[(size_t)t * dim + d];
                    const four_floats *q = packed + ((size_t)g * dim + d) * WORDS;
                    for (int w = 0; w < WORDS; w++) acc[w] += level * q[w];
                }
                for (int l = 0; l < LANES; l++) total[l] += (int32_t)acc[l / 4][l % 4];
            }
            for (int l = 0; l < LANES; l++) {
                float value = (float)total[l] * scales[t];
                if (value > best[g * LANES + l]) best[g * LANES + l] = value;
            }
        }
}

#if X86
__attribute__((target("avx2"))) static void score_avx2(const uint8_t *rows, int n, int groups, int dim,
                                                       const void *query, const int32_t *bias, const float *scales,
                                                       float *best) {
    for (int g = 0; g < groups; g++) {
        const int16_t *packed = (const int16_t *)query + (size_t)g * dim * LANES; /* (dim / 2, LANES, 2) */
        const __m256i *starts = (const __m256i *)(bias + g * LANES);
        __m256i start0 = _mm256_loadu_si256(starts), start1 = _mm256_loadu_si256(starts + 1);
        __m256 top0 = _mm256_loadu_ps(best + g * LANES), top1 = _mm256_loadu_ps(best + g * LANES + 8);
        for (int t = 0; t < n; t++) {
            const uint8_t *row = rows + (size_t)t * dim;
            __m256i acc0 = start0, acc1 = start1;
            for (int d = 0; d < dim; d += 2) {
                __m256i pair = _mm256_set1_epi32(row[d] | row[d + 1] << 16);
                const __m256i *q = (const __m256i *)(packed + (size_t)d * LANES);
                acc0 = _mm256_add_epi32(acc0, _mm256_madd_epi16(pair, _mm256_loadu_si256(q)));
                acc1 = _mm256_add_epi32(acc1, _mm256_madd_epi16(pair, _mm256_loadu_si256(q + 1)));
            }
            __m256 scale = _mm256_set1_ps(scales[t]);
            top0 = _mm256_max_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc0), scale), top0);
            top1 = _mm256_max_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(acc1), scale), top1);
        }
        _mm256_storeu_ps(best + g * LANES, top0);
        _mm256_storeu_ps(best + g * LANES + 8, top1);
    }
}

/* Query tokens four at a time, to meet rows four at a time: lane 4 * i + r of a register holds token i with row r. With
 * fewer than LANES tokens, or a few more than a multiple, no lane is idle, and a row is loaded once for four tokens.
 */
typedef struct {
    int quads, padded; /* dim rounded up to CHUNK */
    int8_t *packed;    /* (quads, padded / 4, 4 tokens, 4 rows, 4), in the order of `interleave` */
    int32_t *bias;     /* (quads, LANES) */
    float *best;       /* (quads, LANES) running maxima */
} quad_tokens;

static void pack_quads(const int8_t *query, int n_tokens, int dim, quad_tokens *tokens) {
    for (int i = 0; i < n_tokens; i++) {
        int8_t *packed = tokens->packed + (size_t)(i / 4) * tokens->padded * LANES + 16 * (i % 4);
        int32_t sum = 0;
        for (int d = 0; d < dim; d++) sum += query[(size_t)i * dim + d];
        for (int r = 0; r < 4; r++) {
            tokens->bias[i / 4 * LANES + 4 * (i % 4) + r] = -OFFSET * sum;
            for (int word = 0; word < tokens->padded / 4; word++) {
                int place = word % 16, from = word - place + 4 * (place % 4) + place / 4; /* as `interleave` puts them */
                if (4 * from < dim)
                    memcpy(packed + (size_t)word * CHUNK + 4 * r, query + (size_t)i * dim + 4 * from, 4);
            }
        }
    }
}

/* The best row for each token. */
static void collect_quads(const quad_tokens *tokens, int n_tokens, float *best) {
    for (int i = 0; i < n_tokens; i++) {
        const float *rows = tokens->best + 4 * i;
        best[i] = rows[0];
        for (int r = 1; r < 4; r++)
            if (rows[r] > best[i]) best[i] = rows[r];
    }
}

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* acc += the products of row's unsigned and q's signed bytes, by fours. The intrinsic makes GCC 12 copy and spill acc. */
#define MULTIPLY_ADD(acc, row, q) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(row), "v"(q))

/* n rows with one group; n is a constant after inlining, so that all accumulators are registers. */
VNNI static inline __attribute__((always_inline)) void score_block(const uint8_t *rows, int n, int dim,
                                                                   const int8_t *packed, const int32_t *bias,
                                                                   const float *scales, float *best) {
    __m512i acc[BLOCK];
    for (int t = 0; t < n; t++) acc[t] = _mm512_loadu_si512(bias);
    int d = 0;
    do {
        __m512i q = _mm512_loadu_si512(packed + (size_t)d * LANES);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            int32_t four;
            memcpy(&four, rows + (size_t)t * dim + d, 4);
            MULTIPLY_ADD(acc[t], _mm512_set1_epi32(four), q);
        }
        d += 4;
    } while (d < dim);
    __m512 top = _mm512_loadu_ps(best);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        top = _mm512_max_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[t]), _mm512_set1_ps(scales[t])), top);
    _mm512_storeu_ps(best, top);
}

VNNI static void score_vnni(const uint8_t *rows, int n, int groups, int dim, const void *query, const int32_t *bias,
                            const float *scales, float *best) {
    for (int g = 0; g < groups; g++, bias += LANES, best += LANES) {
        const int8_t *packed = (const int8_t *)query + (size_t)g * dim * LANES; /* (dim / 4, LANES, 4) */
        if (n == 1) score_block(rows, 1, dim, packed, bias, scales, best);
        for (int t = 0; t + BLOCK <= n; t += BLOCK)
            score_block(rows + (size_t)t * dim, BLOCK, dim, packed, bias, scales + t, best);
    }
}

/* Four rows, so that the same four bytes of each lie side by side: (padded / CHUNK, 16, 4 rows, 4). */
VNNI static void interleave(const uint8_t *rows, int dim, uint8_t *out) {
    for (int d = 0; d < dim; d += CHUNK, out += 4 * CHUNK) {
        __mmask64 keep = dim - d >= CHUNK ? ~0ULL : (1ULL << (dim - d)) - 1;
        __m512i a = _mm512_maskz_loadu_epi8(keep, rows + d), b = _mm512_maskz_loadu_epi8(keep, rows + dim + d);
        __m512i c = _mm512_maskz_loadu_epi8(keep, rows + 2 * dim + d);
        __m512i e = _mm512_maskz_loadu_epi8(keep, rows + 3 * dim + d);
        __m512i low0 = _mm512_unpacklo_epi32(a, b), high0 = _mm512_unpackhi_epi32(a, b);
        __m512i low1 = _mm512_unpacklo_epi32(c, e), high1 = _mm512_unpackhi_epi32(c, e);
        _mm512_storeu_si512(out, _mm512_unpacklo_epi64(low0, low1));
        _mm512_storeu_si512(out + 64, _mm512_unpackhi_epi64(low0, low1));
        _mm512_storeu_si512(out + 128, _mm512_unpacklo_epi64(high0, high1));
        _mm512_storeu_si512(out + 192, _mm512_unpackhi_epi64(high0, high1));
    }
}

/* `sets` times four interleaved rows with `quads` times four query tokens; both are constants after inlining. */
VNNI static inline __attribute__((always_inline)) void score_quads(const uint8_t *woven, int sets, int quads, int padded,
                                                                   const int8_t *packed, const int32_t *bias,
                                                                   const float *scales, float *best) {
    __m512i acc[MOST_QUADS * MOST_SETS];
    for (int k = 0; k < quads; k++)
        for (int s = 0; s < sets; s++) acc[k * MOST_SETS + s] = _mm512_loadu_si512(bias + k * LANES);
    int d = 0;
    do {
        __m512i row[MOST_SETS];
#pragma GCC unroll 4
        for (int s = 0; s < sets; s++)
            row[s] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(woven + 4 * ((size_t)s * padded + d))));
#pragma GCC unroll 6
        for (int k = 0; k < quads; k++) {
            __m512i q = _mm512_loadu_si512(packed + ((size_t)k * padded + d) * LANES);
#pragma GCC unroll 4
            for (int s = 0; s < sets; s++) MULTIPLY_ADD(acc[k * MOST_SETS + s], row[s], q);
        }
        d += 4;
    } while (d < padded);
#pragma GCC unroll 6
    for (int k = 0; k < quads; k++) {
        __m512 top = _mm512_loadu_ps(best + k * LANES);
#pragma GCC unroll 4
        for (int s = 0; s < sets; s++) {
            __m512 scale = _mm512_broadcast_f32x4(_mm_loadu_ps(scales + 4 * s));
            top = _mm512_max_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[k * MOST_SETS + s]), scale), top);
        }
        _mm512_storeu_ps(best + k * LANES, top);
    }
}

VNNI static void score_sets(const uint8_t *woven, int sets, int quads, int padded, const int8_t *packed,
                            const int32_t *bias, const float *scales, float *best) {
#define CASE(k) \
    case k: \
        if (sets == MOST_SETS) score_quads(woven, MOST_SETS, k, padded, packed, bias, scales, best); \
        else score_quads(woven, MOST_SETS / 2, k, padded, packed, bias, scales, best); \
        break;
    for (int from = 0; from < quads; from += MOST_QUADS) {
        switch (quads - from < MOST_QUADS ? quads - from : MOST_QUADS) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
        packed += (size_t)MOST_QUADS * padded * LANES;
        bias += MOST_QUADS * LANES;
        best += MOST_QUADS * LANES;
    }
#undef CASE
}

/* n rows, a multiple of BLOCK, with all quads. woven: room for 4 * MOST_SETS rows. */
VNNI static void score_tile(const uint8_t *rows, int n, int dim, const quad_tokens *tokens, const float *scales,
                            uint8_t *woven) {
    for (int t = 0; t < n;) {
        int sets = n - t >= 4 * MOST_SETS ? MOST_SETS : MOST_SETS / 2;
        for (int s = 0; s < sets; s++)
            interleave(rows + (size_t)(t + 4 * s) * dim, dim, woven + (size_t)4 * s * tokens->padded);
        score_sets(woven, sets, tokens->quads, tokens->padded, tokens->packed, tokens->bias, scales + t, tokens->best);
        t += 4 * sets;
    }
}
#endif

static size_t packed_bytes(int path, int dim) {
    return (size_t)dim * LANES * (path == PATH_VNNI ? 1 : path == PATH_AVX2 ? 2 : 4);
}

static score_function scorer(int path) {
#if X86
    if (path == PATH_VNNI) return score_vnni;
    if (path == PATH_AVX2) return score_avx2;
#else
    (void)path;
#endif
    return score_portable;
}

static decode_function decoder(int path) {
#if X86
    if (path == PATH_VNNI) return decode_vnni;
    if (path == PATH_AVX2) return decode_avx2;
#else
    (void)path;
#endif
    return decode_portable;
}

/* The query tokens in groups of LANES, padded with zeros; (groups, dim, LANES) values in the order a path wants. */
static void pack(const int8_t *query, int n_tokens, int dim, int path, void *packed, int32_t *bias) {
    for (int i = 0; i < n_tokens; i++) {
        int32_t sum = 0;
        size_t group = (size_t)(i / LANES) * dim * LANES;
        int lane = i % LANES;
        for (int d = 0; d < dim; d++) {
            int8_t value = query[(size_t)i * dim + d];
            sum += value;
            if (path == PATH_VNNI)
                ((int8_t *)packed)[group + (size_t)(d / 4) * 4 * LANES + lane * 4 + d % 4] = value;
            else if (path == PATH_AVX2)
                ((int16_t *)packed)[group + (size_t)(d / 2) * 2 * LANES + lane * 2 + d % 2] = value;
            else
                ((float *)packed)[group + (size_t)d * LANES + lane] = value;
        }
        bias[i] = -OFFSET * sum;
    }
}

/* MaxSim of queries with passages, from codes.
 *
 * queries: (n_query_tokens, dim) of all queries one after the other; query_scales: (n_query_tokens,); bounds:
 * (n_queries + 1,). Passages rows[0..n_rows), or first, first + 1, ... when rows is NULL. Token t of the shard has
 * code row t and scale scale_table[scales[t]]; passage p has tokens offsets[p]..offsets[p + 1] and a mean (offset
 * signed bytes, times mean_scales[p]) that its token codes are relative to. out: (n_queries, n_rows), -inf for a
 * passage without tokens. Returns 0, or -1 when memory is short.
 */
int hr_maxsim(int path, int dim, int bits, const uint8_t *levels, const uint8_t *codes, const uint8_t *scales,
              const float *scale_table, const int64_t *offsets, const uint8_t *means, const float *mean_scales,
              const int8_t *queries, const float *query_scales, const int64_t *bounds, int64_t n_queries,
              const int64_t *rows, int64_t first, int64_t n_rows, float *out) {
    int n_tokens = (int)bounds[n_queries], groups = (n_tokens + LANES - 1) / LANES, width = dim * bits / 8;
    int tile = TILE_BYTES / dim / BLOCK * BLOCK;
    if (tile < BLOCK) tile = BLOCK;
    void *packed = lines(groups * packed_bytes(path, dim));
    int32_t *bias = lines((size_t)groups * LANES * sizeof *bias);
    float *best = lines((size_t)groups * LANES * 2 * sizeof *best), *base = best + groups * LANES;
    uint8_t *decoded = lines((size_t)tile * dim);
    float *tile_scales = lines((size_t)tile * sizeof *tile_scales);
    /* quads, their bias and maxima, and interleaved rows, in one piece */
    quad_tokens quads = {(n_tokens + 3) / 4, (dim + CHUNK - 1) / CHUNK * CHUNK, NULL, NULL, NULL};
    size_t quad_lanes = path == PATH_VNNI ? (size_t)quads.quads * LANES : 0;
    quads.packed = lines(quad_lanes * (quads.padded + 8) + (size_t)4 * MOST_SETS * quads.padded);
    if (!packed || !bias || !best || !decoded || !tile_scales || !quads.packed) {
        free(packed), free(bias), free(best), free(decoded), free(tile_scales), free(quads.packed);
        return -1;
    }
    quads.bias = (int32_t *)(quads.packed + quad_lanes * quads.padded);
    quads.best = (float *)(quads.bias + quad_lanes);
    uint8_t *woven = (uint8_t *)(quads.best + quad_lanes);
    if (quad_lanes) pack_quads(queries, n_tokens, dim, &quads);
    pack(queries, n_tokens, dim, path, packed, bias);
    decode_function decode = decoder(path);
    score_function score = scorer(path);
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t passage = rows ? rows[r] : first + r, from = offsets[passage], to = offsets[passage + 1];
        if (from == to) {
            for (int64_t q = 0; q < n_queries; q++) out[q * n_rows + r] = -INFINITY;
            continue;
        }
        for (int i = 0; i < groups * LANES; i++) best[i] = base[i] = -INFINITY;
        for (size_t i = 0; i < quad_lanes; i++) quads.best[i] = -INFINITY;
        for (int64_t start = from; start < to; start += tile) {
            int n = (int)(to - start < tile ? to - start : tile);
            const uint8_t *tile_codes = codes + (size_t)start * width;
            int whole = bits == 8 ? n / BLOCK * BLOCK : 0; /* codes of 8 bits are scored where they are */
            size_t rest = (size_t)(n - whole);
            if (bits == 8) memcpy(decoded, tile_codes + (size_t)whole * dim, rest * dim);
            else decode(tile_codes, n, dim, bits, levels, decoded);
            for (int t = 0; t < n; t++) tile_scales[t] = scale_table[scales[start + t]];
            for (; n % BLOCK; n++, rest++) { /* the last token again changes no maximum */
                memcpy(decoded + rest * dim, decoded + (rest - 1) * dim, (size_t)dim);
                tile_scales[n] = tile_scales[n - 1];
            }
            for (int part = 0; part < 2; part++) {
                const uint8_t *tile_rows = part ? decoded : tile_codes;
                const float *row_scales = part ? tile_scales + whole : tile_scales;
                int n_tile = part ? (int)rest : whole;
                if (n_tile && quad_lanes) score_tile(tile_rows, n_tile, dim, &quads, row_scales, woven);
                else if (n_tile) score(tile_rows, n_tile, groups, dim, packed, bias, row_scales, best);
            }
        }
        if (quad_lanes) collect_quads(&quads, n_tokens, best);
        score(means + (size_t)passage * dim, 1, groups, dim, packed, bias, mean_scales + passage, base);
        for (int64_t q = 0; q < n_queries; q++) {
            double sum = 0;
            for (int64_t i = bounds[q]; i < bounds[q + 1]; i++) sum += (double)((best[i] + base[i]) * query_scales[i]);
            out[q * n_rows + r] = (float)sum;
        }
    }
    free(packed), free(bias), free(best), free(decoded), free(tile_scales), free(quads.packed);
    return 0;
}

/* Candidates: tokens of a query meet centroids, centroids list passages (after PLAID and WARP). */

typedef struct {
    float estimate;
    int64_t row;
} found;

static int better(const found *a, const found *b) {
    return a->estimate > b->estimate || (a->estimate == b->estimate && a->row < b->row);
}

static int compare_found(const void *a, const void *b) {
    return better(a, b) ? -1 : better(b, a);
}

/* Moves the `wanted` best of items[0..n) to the front, in no order (Hoare's selection). */
static void select_best(found *items, int64_t n, int64_t wanted) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        found pivot = items[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (better(&items[i], &pivot)) i++;
            while (better(&pivot, &items[j])) j--;
            if (i <= j) {
                found swapped = items[i];
                items[i++] = items[j];
                items[j--] = swapped;
            }
        }
        if (wanted <= j + 1 && wanted > 0) high = j;
        else if (wanted > i) low = i;
        else return;
    }
}

CLONES static int32_t dot_bytes(const uint8_t *row, const int8_t *query, int dim) {
    int32_t sum = 0;
    for (int d = 0; d < dim; d++) sum += ((int32_t)row[d] - OFFSET) * query[d];
    return sum;
}

CLONES static int32_t dot_words(const uint8_t *row, const int16_t *query, int dim) {
    int32_t sum = 0;
    for (int d = 0; d < dim; d++) sum += ((int32_t)row[d] - OFFSET) * query[d];
    return sum;
}

/* The n_probe best centroids of each query token, best first, and the value that comes next after them.
 *
 * centroids: (n_centroids, dim) offset signed bytes, n_centroids a multiple of BLOCK. chosen, values:
 * (n_tokens, n_probe); next: (n_tokens,).
 */
static int probe_centroids(int path, int dim, const uint8_t *centroids, const float *centroid_scales, int n_centroids,
                           const int8_t *query, int n_tokens, int n_probe, int32_t *chosen, float *values,
                           float *next) {
    int groups = (n_tokens + LANES - 1) / LANES, lanes = groups * LANES, n_blocks = n_centroids / BLOCK, status = -1;
    void *packed = lines(groups * packed_bytes(path, dim));
    int32_t *bias = lines((size_t)lanes * sizeof *bias);
    float *tops = lines((size_t)n_blocks * lanes * sizeof *tops); /* best of each block for each lane */
    found *items = malloc(((size_t)n_blocks + (size_t)BLOCK * n_blocks) * sizeof *items), *close = items + n_blocks;
    if (packed && bias && tops && items) {
        pack(query, n_tokens, dim, path, packed, bias);
        score_function score = scorer(path);
        for (size_t i = 0; i < (size_t)n_blocks * lanes; i++) tops[i] = -INFINITY;
        for (int b = 0; b < n_blocks; b++)
            score(centroids + (size_t)b * BLOCK * dim, BLOCK, groups, dim, packed, bias, centroid_scales + b * BLOCK,
                  tops + (size_t)b * lanes);
        int wanted = n_probe + 1 < n_centroids ? n_probe + 1 : n_centroids;
        for (int t = 0; t < n_tokens; t++) {
            for (int b = 0; b < n_blocks; b++) items[b] = (found){tops[(size_t)b * lanes + t], b};
            int bound = wanted < n_blocks ? wanted : n_blocks;
            select_best(items, n_blocks, bound);
            int64_t n_close = 0; /* any centroid among the wanted lies in one of the best `wanted` blocks */
            for (int i = 0; i < bound; i++)
                for (int c = (int)items[i].row * BLOCK; c < ((int)items[i].row + 1) * BLOCK; c++)
                    close[n_close++] =
                        (found){(float)dot_bytes(centroids + (size_t)c * dim, query + (size_t)t * dim, dim) *
                                    centroid_scales[c], c};
            qsort(close, (size_t)n_close, sizeof *close, compare_found);
            for (int i = 0; i < n_probe; i++) {
                chosen[t * n_probe + i] = i < wanted ? (int32_t)close[i].row : -1;
                values[t * n_probe + i] = i < wanted ? close[i].estimate : 0;
            }
            next[t] = close[wanted - 1].estimate;
        }
        status = 0;
    }
    free(packed), free(bias), free(tops), free(items);
    return status;
}

/* The n passages of a shard with the highest estimate of MaxSim.
 *
 * A passage's estimate is, summed over query tokens, the value of the best probed centroid that lists it, or the value
 * of the first centroid not probed (imputed, as in WARP); the n_first best of those that any centroid lists get
 * mean_weight times the query's sum with the passage's mean added, and the n best of these are the result.
 *
 * postings: for block k of BLOCK_ROWS passages and centroid c, entries starts[k * (n_centroids + 1) + c] to the next
 * are rows within the block. query_sum: (dim,) sum of the query's tokens as 16-bit integers, in units of sum_scale,
 * which holds mean_weight already. allowed: (n_passages,) bytes, 0 leaves a passage out, or NULL. unlisted: whether
 * passages that no probed centroid lists compete too. rows, estimates: (n,). Returns how many were found, -1 when memory is short, -2 when a posting is out of range.
 */
#define BLOCK_ROWS 65536

int64_t hr_candidates(int path, int dim, const uint8_t *centroids, const float *centroid_scales, int n_centroids,
                      const uint64_t *starts, const uint16_t *postings, int64_t n_passages, const uint8_t *means,
                      const float *mean_scales, const int64_t *offsets, const uint8_t *allowed, int unlisted,
                      const int8_t *query, const float *query_scales, int n_tokens, const int16_t *query_sum,
                      float sum_scale, int n_probe, int64_t n_first, int64_t n, int64_t *rows, float *estimates) {
    int64_t result = -1, capacity = 2 * n_first, n_kept = 0;
    int32_t *chosen = malloc((size_t)n_tokens * n_probe * sizeof *chosen);
    float *values = malloc((size_t)n_tokens * n_probe * sizeof *values);
    float *next = malloc((size_t)n_tokens * sizeof *next);
    float *estimate = malloc(BLOCK_ROWS * sizeof *estimate);
    uint16_t *seen = malloc(BLOCK_ROWS * sizeof *seen);
    found *kept = malloc((size_t)capacity * sizeof *kept);
    if (!chosen || !values || !next || !estimate || !seen || !kept) goto end;
    if (probe_centroids(path, dim, centroids, centroid_scales, n_centroids, query, n_tokens, n_probe, chosen, values,
                        next))
        goto end;
    float imputed = 0, floor = -INFINITY;
    for (int t = 0; t < n_tokens; t++) imputed += next[t] * query_scales[t];
    for (int64_t block = 0; block * BLOCK_ROWS < n_passages; block++) {
        int64_t base = block * BLOCK_ROWS;
        int size = (int)(n_passages - base < BLOCK_ROWS ? n_passages - base : BLOCK_ROWS);
        const uint64_t *block_starts = starts + block * ((int64_t)n_centroids + 1);
        memset(estimate, 0, (size_t)size * sizeof *estimate);
        memset(seen, 0, (size_t)size * sizeof *seen);
        for (int t = 0; t < n_tokens; t++)
            for (int i = 0; i < n_probe; i++) {
                int32_t c = chosen[t * n_probe + i];
                if (c < 0) break;
                float gain = (values[t * n_probe + i] - next[t]) * query_scales[t];
                const uint16_t *end = postings + block_starts[c + 1];
                for (const uint16_t *p = postings + block_starts[c]; p < end; p++) {
                    if (*p >= size) {
                        result = -2;
                        goto end;
                    }
                    if (seen[*p] != t + 1) { /* best centroid first: the first to list a passage counts */
                        seen[*p] = (uint16_t)(t + 1);
                        estimate[*p] += gain;
                    }
                }
            }
        for (int p = 0; p < size; p++) {
            if (!(seen[p] || unlisted) || estimate[p] < floor || (allowed && !allowed[base + p]) ||
                offsets[base + p] == offsets[base + p + 1])
                continue;
            kept[n_kept++] = (found){estimate[p], base + p};
            if (n_kept == capacity) {
                select_best(kept, n_kept, n_first);
                n_kept = n_first;
                floor = INFINITY;
                for (int64_t i = 0; i < n_kept; i++)
                    if (kept[i].estimate < floor) floor = kept[i].estimate;
            }
        }
    }
    if (n_kept > n_first) select_best(kept, n_kept, n_first), n_kept = n_first;
    for (int64_t i = 0; i < n_kept; i++) {
        const uint8_t *mean = means + (size_t)kept[i].row * dim;
        int32_t product = dot_words(mean, query_sum, dim);
        kept[i].estimate = kept[i].estimate + imputed + (float)product * (sum_scale * mean_scales[kept[i].row]);
    }
    if (n_kept > n) select_best(kept, n_kept, n), n_kept = n;
    qsort(kept, (size_t)n_kept, sizeof *kept, compare_found);
    for (int64_t i = 0; i < n_kept; i++) rows[i] = kept[i].row, estimates[i] = kept[i].estimate;
    result = n_kept;
end:
    free(chosen), free(values), free(next), free(estimate), free(seen), free(kept);
    return result;
}

/* Checksums: the sum of 64-bit words times odd multipliers, so that one changed bit always shows. */
static uint64_t add_bytes(uint64_t sum, const uint8_t *data, int64_t n) {
    uint64_t multiplier = 0x9E3779B97F4A7C15ULL, word;
    for (; n >= 8; n -= 8, data += 8) {
        memcpy(&word, data, 8);
        sum += word * multiplier;
        multiplier += 0x9E3779B97F4A7C16ULL; /* stays odd */
    }
    if (n > 0) {
        word = 0;
        memcpy(&word, data, (size_t)n);
        sum += word * multiplier;
    }
    return sum;
}

uint64_t hr_checksum(const uint8_t *data, int64_t n) {
    return add_bytes(0, data, n);
}

/* The checksum of each listed passage's codes, scales and mean; out: (n_rows,). */
void hr_passage_checksums(int dim, int width, const uint8_t *codes, const uint8_t *scales, const int64_t *offsets,
                          const uint8_t *means, const int64_t *rows, int64_t first, int64_t n_rows, uint64_t *out) {
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t passage = rows ? rows[r] : first + r, from = offsets[passage], n = offsets[passage + 1] - from;
        uint64_t sum = add_bytes(0, codes + (size_t)from * width, n * width);
        out[r] = add_bytes(add_bytes(sum, scales + from, n), means + (size_t)passage * dim, dim);
    }
}
