/* SPDX-License-Identifier: MIT */
#include "store/record.h"

#include <assert.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#define RECORD_VERSION 1
#define INODE_FLAGS (INODE_WRITERS | INODE_SUMMED | INODE_BAD | INODE_BODY)

static void put_u32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static void put_u64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

static uint32_t get_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static int64_t get_i64(const uint8_t *p)
{
	return (int64_t)get_u64(p);
}

static void put_be64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

struct record_key record_key_id(uint64_t id)
{
	struct record_key key = { .len = 8 };

	put_be64(key.bytes, id);
	return key;
}

struct record_key record_key_pair(uint64_t id, uint64_t second)
{
	struct record_key key = { .len = 16 };

	put_be64(key.bytes, id);
	put_be64(key.bytes + 8, second);
	return key;
}

struct record_key record_key_name(uint64_t parent, const char *name)
{
	size_t len = strlen(name);
	struct record_key key = { .len = 8 + len };

	assert(len <= RECORD_NAME_MAX);
	put_be64(key.bytes, parent);
	memcpy(key.bytes + 8, name, len);
	return key;
}

struct record_key record_key_lru(uint8_t queue, int64_t last_use_ns,
				 uint64_t entry)
{
	struct record_key key = { .len = 17 };

	key.bytes[0] = queue;
	put_be64(key.bytes + 1, last_use_ns < 0 ? 0 : (uint64_t)last_use_ns);
	put_be64(key.bytes + 9, entry);
	return key;
}

struct record_key record_key_text(const char *text)
{
	size_t len = strlen(text);
	struct record_key key = { .len = len };

	assert(len > 0 && len <= RECORD_KEY_MAX);
	memcpy(key.bytes, text, len);
	return key;
}

int record_key_get(const struct record_key *key, size_t at, uint64_t *ret)
{
	uint64_t v;

	if (key->len > RECORD_KEY_MAX || at > key->len || key->len - at < 8)
		return -EBADMSG;
	memcpy(&v, key->bytes + at, sizeof(v));
	*ret = be64toh(v);
	return 0;
}

/* Which kinds of file may have bytes, and where. */
static bool inode_data_fits(uint32_t mode, uint8_t data)
{
	switch (data) {
	case INODE_DATA_NONE:
		return true;
	case INODE_DATA_INLINE:
		return S_ISREG(mode) || S_ISLNK(mode);
	case INODE_DATA_PACK:
	case INODE_DATA_RECIPE:
		return S_ISREG(mode);
	default:
		return false;
	}
}

static bool inode_mode_valid(uint32_t mode)
{
	if (mode & ~(uint32_t)(S_IFMT | 07777))
		return false;
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) ||
	       S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode) ||
	       S_ISSOCK(mode);
}

void record_inode_encode(const struct inode *in,
			 uint8_t buf[static RECORD_INODE_SIZE])
{
	memset(buf, 0, RECORD_INODE_SIZE);
	buf[0] = RECORD_VERSION;
	buf[1] = (uint8_t)in->data;
	buf[2] = in->kind;
	put_u32(buf + 4, in->flags);
	put_u32(buf + 8, in->view);
	put_u32(buf + 12, in->mode);
	put_u32(buf + 16, in->uid);
	put_u32(buf + 20, in->gid);
	put_u32(buf + 24, in->nlink);
	put_u64(buf + 32, in->size);
	put_u64(buf + 40, (uint64_t)in->atime_ns);
	put_u64(buf + 48, (uint64_t)in->mtime_ns);
	put_u64(buf + 56, (uint64_t)in->ctime_ns);
	put_u64(buf + 64, in->rdev);
	put_u64(buf + 72, in->parent);
	put_u64(buf + 80, in->cookie);
	put_u64(buf + 88, in->next_cookie);
	put_u64(buf + 96, in->entry);
	put_u64(buf + 104, in->pack);
	put_u64(buf + 112, in->xxh3);
	put_u64(buf + 120, in->alloc);
	put_u64(buf + 128, in->recipe);
}

int record_inode_decode(uint64_t ino, const uint8_t *buf, size_t len,
			struct inode *ret)
{
	if (len != RECORD_INODE_SIZE || buf[0] != RECORD_VERSION)
		return -EBADMSG;
	if (buf[2] >= RECORD_KINDS || buf[3] || get_u32(buf + 28))
		return -EBADMSG;
	if (buf[1] == INODE_DATA_RECIPE && !get_u64(buf + 128))
		return -EBADMSG;
	if (get_u32(buf + 4) & ~(uint32_t)INODE_FLAGS)
		return -EBADMSG;
	if (!inode_mode_valid(get_u32(buf + 12)) ||
	    !inode_data_fits(get_u32(buf + 12), buf[1]))
		return -EBADMSG;
	if (get_u64(buf + 32) > INT64_MAX || get_u64(buf + 120) > INT64_MAX)
		return -EBADMSG;
	*ret = (struct inode){
		.ino = ino,
		.data = (enum inode_data)buf[1],
		.kind = buf[2],
		.flags = get_u32(buf + 4),
		.view = get_u32(buf + 8),
		.mode = get_u32(buf + 12),
		.uid = get_u32(buf + 16),
		.gid = get_u32(buf + 20),
		.nlink = get_u32(buf + 24),
		.size = get_u64(buf + 32),
		.atime_ns = get_i64(buf + 40),
		.mtime_ns = get_i64(buf + 48),
		.ctime_ns = get_i64(buf + 56),
		.rdev = get_u64(buf + 64),
		.parent = get_u64(buf + 72),
		.cookie = get_u64(buf + 80),
		.next_cookie = get_u64(buf + 88),
		.entry = get_u64(buf + 96),
		.pack = get_u64(buf + 104),
		.xxh3 = get_u64(buf + 112),
		.alloc = get_u64(buf + 120),
		.recipe = get_u64(buf + 128),
	};
	return 0;
}

static bool dirent_type_valid(uint8_t type)
{
	switch (type) {
	case DT_FIFO:
	case DT_CHR:
	case DT_DIR:
	case DT_BLK:
	case DT_REG:
	case DT_LNK:
	case DT_SOCK:
		return true;
	default:
		return false;
	}
}

void record_dirent_encode(const struct dirent_rec *de,
			  uint8_t buf[static RECORD_DIRENT_SIZE])
{
	put_u64(buf, de->ino);
	put_u64(buf + 8, de->cookie);
	buf[16] = de->type;
}

int record_dirent_decode(const uint8_t *buf, size_t len, struct dirent_rec *ret)
{
	struct dirent_rec de;

	if (len != RECORD_DIRENT_SIZE)
		return -EBADMSG;
	de.ino = get_u64(buf);
	de.cookie = get_u64(buf + 8);
	de.type = buf[16];
	if (!de.ino || de.cookie < RECORD_FIRST_COOKIE ||
	    de.cookie > INT64_MAX || !dirent_type_valid(de.type))
		return -EBADMSG;
	*ret = de;
	return 0;
}

void record_pack_encode(const struct pack_rec *pk,
			uint8_t buf[static RECORD_PACK_SIZE])
{
	memset(buf, 0, RECORD_PACK_SIZE);
	buf[0] = RECORD_VERSION;
	buf[1] = (uint8_t)pk->state;
	put_u64(buf + 8, pk->owner);
	put_u64(buf + 16, pk->bytes);
	put_u64(buf + 24, pk->live);
}

int record_pack_decode(const uint8_t *buf, size_t len, struct pack_rec *ret)
{
	if (len != RECORD_PACK_SIZE || buf[0] != RECORD_VERSION ||
	    buf[1] < PACK_WHOLE || buf[1] > PACK_SHARED || buf[2] || buf[3] ||
	    get_u32(buf + 4))
		return -EBADMSG;
	if (get_u64(buf + 16) > INT64_MAX || get_u64(buf + 24) > INT64_MAX)
		return -EBADMSG;
	*ret = (struct pack_rec){
		.state = (enum pack_state)buf[1],
		.owner = get_u64(buf + 8),
		.bytes = get_u64(buf + 16),
		.live = get_u64(buf + 24),
	};
	return 0;
}

static size_t put_leb128(uint8_t *p, uint64_t v)
{
	size_t n = 0;

	for (; v >= 0x80; v >>= 7)
		p[n++] = (uint8_t)(v | 0x80);
	p[n++] = (uint8_t)v;
	return n;
}

/* The bytes that it took of @len; 0: it does not end, has too many bits, or is
 * not the shortest encoding. */
static size_t get_leb128(const uint8_t *p, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t n = 0; n < len && n < 10; n++) {
		uint64_t bits = p[n] & 0x7f;

		if (n == 9 && bits > 1)
			return 0;
		v |= bits << 7 * n;
		if (p[n] & 0x80)
			continue;
		if (n && !p[n])
			return 0;
		*ret = v;
		return n + 1;
	}
	return 0;
}

size_t record_block_encode(const struct block_rec *bl,
			   uint8_t buf[static RECORD_BLOCK_MAX])
{
	size_t n = RECORD_BLOCK_HEAD;

	memcpy(buf, bl->sha256, RECORD_SHA256_SIZE);
	put_u64(buf + RECORD_SHA256_SIZE, bl->xxh3);
	n += put_leb128(buf + n, bl->pack);
	n += put_leb128(buf + n, bl->offset);
	n += put_leb128(buf + n, bl->length);
	n += put_leb128(buf + n, bl->refs);
	return n;
}

int record_block_decode(const uint8_t *buf, size_t len, struct block_rec *ret)
{
	uint64_t v[4]; /* pack, offset, length, references */
	size_t at = RECORD_BLOCK_HEAD, n;

	if (len < RECORD_BLOCK_HEAD)
		return -EBADMSG;
	for (int i = 0; i < 4; i++, at += n) {
		n = get_leb128(buf + at, len - at, &v[i]);
		if (!n)
			return -EBADMSG;
	}
	if (at != len || (!v[0] && v[1]) || !v[2] || !v[3] ||
	    v[3] > UINT32_MAX || v[1] > INT64_MAX || v[2] > INT64_MAX - v[1])
		return -EBADMSG;
	*ret = (struct block_rec){
		.pack = v[0],
		.offset = v[1],
		.length = v[2],
		.xxh3 = get_u64(buf + RECORD_SHA256_SIZE),
		.refs = (uint32_t)v[3],
	};
	memcpy(ret->sha256, buf, RECORD_SHA256_SIZE);
	return 0;
}

uint64_t record_sha256_head(const uint8_t sha256[static RECORD_SHA256_SIZE])
{
	uint64_t v;

	memcpy(&v, sha256, sizeof(v));
	return be64toh(v);
}

size_t record_runs_encode(const struct run *runs, size_t n, uint8_t *buf)
{
	assert(n > 0 && n <= RECORD_RUNS_MAX);
	for (size_t i = 0; i < n; i++, buf += RECORD_RUN_SIZE) {
		put_u64(buf, runs[i].first);
		put_u32(buf + 8, runs[i].count);
		buf[12] = runs[i].stamped;
		memcpy(buf + 13, &runs[i].stamp, sizeof(runs[i].stamp));
	}
	return n * RECORD_RUN_SIZE;
}

int record_runs_decode(const uint8_t *buf, size_t len,
		       struct run ret[static RECORD_RUNS_MAX], size_t *ret_n)
{
	size_t n = len / RECORD_RUN_SIZE;

	if (!n || n > RECORD_RUNS_MAX || len % RECORD_RUN_SIZE)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++, buf += RECORD_RUN_SIZE) {
		struct run run = { .first = get_u64(buf),
				   .count = get_u32(buf + 8),
				   .stamped = buf[12] };

		memcpy(&run.stamp, buf + 13, sizeof(run.stamp));
		if (!run.first || !run.count || buf[12] > 1 ||
		    run.first > UINT64_MAX - run.count ||
		    (!run.stamped && run.stamp))
			return -EBADMSG;
		ret[i] = run;
	}
	*ret_n = n;
	return 0;
}

size_t record_entry_encode(const struct entry_rec *en,
			   uint8_t buf[static RECORD_ENTRY_MAX])
{
	size_t len = strnlen(en->name, RECORD_NAME_MAX);

	memset(buf, 0, RECORD_ENTRY_HEAD);
	buf[0] = RECORD_VERSION;
	buf[1] = en->kind;
	put_u32(buf + 4, en->members);
	put_u64(buf + 8, en->dir);
	put_u64(buf + 16, (uint64_t)en->last_use_ns);
	put_u64(buf + 24, en->hits);
	memcpy(buf + RECORD_ENTRY_HEAD, en->name, len);
	return RECORD_ENTRY_HEAD + len;
}

int record_entry_decode(const uint8_t *buf, size_t len, struct entry_rec *ret)
{
	const uint8_t *name;
	size_t name_len;

	if (len < RECORD_ENTRY_HEAD || len > RECORD_ENTRY_MAX ||
	    buf[0] != RECORD_VERSION)
		return -EBADMSG;
	if (buf[1] >= RECORD_KINDS || buf[2] || buf[3] || get_u32(buf + 32))
		return -EBADMSG;
	name = buf + RECORD_ENTRY_HEAD;
	name_len = len - RECORD_ENTRY_HEAD;
	if (memchr(name, '\0', name_len) || memchr(name, '/', name_len))
		return -EBADMSG;
	*ret = (struct entry_rec){
		.kind = buf[1],
		.members = get_u32(buf + 4),
		.dir = get_u64(buf + 8),
		.last_use_ns = get_i64(buf + 16),
		.hits = get_u64(buf + 24),
	};
	memcpy(ret->name, name, name_len);
	return 0;
}

void record_u64_encode(uint64_t v, uint8_t buf[static 8])
{
	put_u64(buf, v);
}

int record_u64_decode(const uint8_t *buf, size_t len, uint64_t *ret)
{
	if (len != 8)
		return -EBADMSG;
	*ret = get_u64(buf);
	return 0;
}
