// core/digest.c - SHA-256 (FIPS 180-4), MD5 (RFC 1321) and CRC-32C (RFC 3720): names for bytes, and damage detection.
//
// SHA-256 names data sets and run states, MD5 only checks downloads against the sums that their authors publish, and
// CRC-32C finds damage in checkpoints. None of them is here to keep an adversary out.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include "core/file.h"
#ifdef __SSE4_2__
#include <nmmintrin.h>
#else
#include <pthread.h>
#endif

static uint32_t rotate_left(uint32_t x, int n) {
    return x << n | x >> (32 - n);
}

static uint32_t rotate_right(uint32_t x, int n) {
    return x >> n | x << (32 - n);
}

// What both hashes share: 64-byte blocks, then a 1 bit, zeros and the length in bits (8 bytes, high byte first for
// SHA-256). state has 4 words (MD5) or 8.
typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t  block[64];
    void   (*compress)(uint32_t *state, const uint8_t *block);
    bool     big_endian;
} Hash;

static void hash_add(Hash *h, const uint8_t *bytes, size_t n) {
    size_t have = h->bytes % 64;
    h->bytes += n;
    if (have) {
        size_t take = n < 64 - have ? n : 64 - have;
        memcpy(h->block + have, bytes, take);
        if (have + take < 64) return;
        h->compress(h->state, h->block);
        bytes += take;
        n -= take;
    }
    for (; n >= 64; bytes += 64, n -= 64) h->compress(h->state, bytes);
    if (n) memcpy(h->block, bytes, n);
}

// Pads, and writes `words` words of the state as hexadecimal digits and a 0.
static void hash_end(Hash *h, int words, char *hex) {
    static const uint8_t pad[64] = { 0x80 };
    uint64_t bits = h->bytes * 8;
    size_t have = h->bytes % 64;
    uint8_t length[8];
    hash_add(h, pad, have < 56 ? 56 - have : 120 - have);
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> 8 * (h->big_endian ? 7 - i : i));
    hash_add(h, length, 8);
    for (int i = 0; i < 4 * words; i++) {
        int shift = 8 * (h->big_endian ? 3 - i % 4 : i % 4);
        snprintf(hex + 2 * i, 3, "%02x", (unsigned)(h->state[i / 4] >> shift & 0xff));
    }
}

// Adds a whole file, of any size, piece by piece.
static bool hash_file(Hash *h, const char *path, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), interrupted = 0;
    if (fd < 0) return error_set(err, ERR_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    uint8_t chunk[1 << 16];
    ssize_t got;
    while ((got = read(fd, chunk, sizeof chunk)) != 0) {
        if (got > 0) hash_add(h, chunk, (size_t)got);
        else if (errno != EINTR || interrupted++ == 100) break;
    }
    int why = errno;
    close(fd);
    return got == 0 || error_set(err, why == EISDIR ? ERR_FILE : ERR_IO, "%s: reading failed at offset %" PRIu64 ": %s",
                                 path, h->bytes, strerror(why));
}

// ---- SHA-256

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static const uint32_t sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static void sha256_compress(uint32_t *state, const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8
             | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3)
             + (rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = h + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) + ((e & f) ^ (~e & g))
                    + sha256_k[i] + w[i];
        uint32_t t2 = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static Hash sha256_start(void) {
    return (Hash){ .state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                              0x5be0cd19 }, .compress = sha256_compress, .big_endian = true };
}

void sha256(const void *bytes, size_t n, char hex[65]) {
    Hash h = sha256_start();
    hash_add(&h, bytes, n);
    hash_end(&h, 8, hex);
}

bool sha256_file(const char *path, char hex[65], Error *err) {
    Hash h = sha256_start();
    if (!hash_file(&h, path, err)) return false;
    hash_end(&h, 8, hex);
    return true;
}

// ---- MD5

// floor(2^32 |sin(i + 1)|)
static const uint32_t md5_k[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

static void md5_compress(uint32_t *state, const uint8_t *block) {
    static const int turns[4][4] = { { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 }, { 6, 10, 15, 21 } };
    uint32_t w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] | (uint32_t)block[4 * i + 1] << 8 | (uint32_t)block[4 * i + 2] << 16
             | (uint32_t)block[4 * i + 3] << 24;
    for (int i = 0; i < 64; i++) {
        uint32_t f;
        int word;
        switch (i / 16) {
        case 0: f = (b & c) | (~b & d), word = i; break;
        case 1: f = (d & b) | (~d & c), word = (5 * i + 1) % 16; break;
        case 2: f = b ^ c ^ d, word = (3 * i + 5) % 16; break;
        default: f = c ^ (b | ~d), word = 7 * i % 16;
        }
        uint32_t next = b + rotate_left(a + f + md5_k[i] + w[word], turns[i / 16][i % 4]);
        a = d, d = c, c = b, b = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
}

static Hash md5_start(void) {
    return (Hash){ .state = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476 }, .compress = md5_compress };
}

void md5(const void *bytes, size_t n, char hex[33]) {
    Hash h = md5_start();
    hash_add(&h, bytes, n);
    hash_end(&h, 4, hex);
}

bool md5_file(const char *path, char hex[33], Error *err) {
    Hash h = md5_start();
    if (!hash_file(&h, path, err)) return false;
    hash_end(&h, 4, hex);
    return true;
}

// ---- CRC-32C: the polynomial 0x1edc6f41, bits reversed, as the SSE 4.2 instruction computes it

#ifdef __SSE4_2__
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    uint64_t c = ~crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    for (; n; p++, n--) c = _mm_crc32_u8((uint32_t)c, *p);
    return ~(uint32_t)c;
}
#else
static uint32_t crc32c_byte(uint32_t c) {
    for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1 ? 0x82f63b78 : 0);
    return c;
}

// table[k][b] is what byte b does to the CRC when k more bytes follow it: eight bytes are done at a time.
static uint32_t table[8][256];

static void build_table(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = crc32c_byte(b);
        for (int k = 0; k < 8; k++, c = crc32c_byte(c & 0xff) ^ c >> 8) table[k][b] = c;
    }
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_table);
    const uint8_t *p = bytes;
    uint32_t c = ~crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint32_t low = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        c = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^ table[4][low >> 24]
          ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; n; p++, n--) c = table[0][(c ^ *p) & 0xff] ^ c >> 8;
    return ~c;
}
#endif
