/* SPDX-License-Identifier: MIT */
#include "store/side.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base.h"
#include "store/digest.h"
#include "store/mdbfile.h"

enum {
	AT_MAGIC = 0,
	AT_FLAGS = 8,
	AT_PAGE_SIZE = 12,
	AT_TXNID = 16,
	AT_DEV = 24,
	AT_INO = 32,
	AT_TOKEN = 40,
	AT_TIME = 56,
	HEAD_SIZE = 64,
	SUM_SIZE = 8,
};

#define SIZE_MAX_BYTES (HEAD_SIZE + 2 * MDBFILE_PAGE_MAX + SUM_SIZE)

static const uint8_t magic[8] = "PCFSCKP1";

static void put_u32(uint8_t *buf, uint32_t v)
{
	v = htole32(v);
	memcpy(buf, &v, sizeof(v));
}

static void put_u64(uint8_t *buf, uint64_t v)
{
	v = htole64(v);
	memcpy(buf, &v, sizeof(v));
}

static uint32_t get_u32(const uint8_t *buf)
{
	uint32_t v;

	memcpy(&v, buf, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(const uint8_t *buf)
{
	uint64_t v;

	memcpy(&v, buf, sizeof(v));
	return le64toh(v);
}

/* -- Reading -------------------------------------------------------------- */

static ssize_t read_all(int fd, uint8_t *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while (len < size) {
		n = pread(fd, buf + len, size - len, (off_t)len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

static int decode(const uint8_t *buf, size_t len, struct side *ret)
{
	struct side out = { .meta = NULL };
	size_t meta_len;

	if (len < HEAD_SIZE + SUM_SIZE ||
	    memcmp(buf + AT_MAGIC, magic, sizeof(magic)) != 0)
		return -EBADMSG;
	if (get_u64(buf + len - SUM_SIZE) != digest_xxh3(buf, len - SUM_SIZE))
		return -EBADMSG;
	out.flags = get_u32(buf + AT_FLAGS);
	out.page_size = get_u32(buf + AT_PAGE_SIZE);
	out.txnid = get_u64(buf + AT_TXNID);
	out.dev = get_u64(buf + AT_DEV);
	out.ino = get_u64(buf + AT_INO);
	memcpy(out.token, buf + AT_TOKEN, SIDE_TOKEN_SIZE);
	out.time_sec = get_u64(buf + AT_TIME);
	meta_len = 2 * out.page_size;
	if (len != HEAD_SIZE + meta_len + SUM_SIZE ||
	    (out.page_size == 0) != !!(out.flags & SIDE_EMPTY))
		return -EBADMSG;
	if (meta_len > 0) {
		out.meta = malloc(meta_len);
		if (!out.meta)
			return -ENOMEM;
		memcpy(out.meta, buf + HEAD_SIZE, meta_len);
	}
	*ret = out;
	return 0;
}

int side_read(int dir_fd, struct side *ret)
{
	cleanup_close int fd =
		openat(dir_fd, SIDE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_free uint8_t *buf = NULL;
	ssize_t len;

	if (fd < 0)
		return -errno;
	buf = malloc(SIZE_MAX_BYTES + 1);
	if (!buf)
		return -ENOMEM;
	len = read_all(fd, buf, SIZE_MAX_BYTES + 1);
	if (len < 0)
		return (int)len;
	return decode(buf, (size_t)len, ret);
}

void side_release(struct side *side)
{
	free(side->meta);
	side->meta = NULL;
}

/* -- Writing -------------------------------------------------------------- */

static size_t encode(const struct side *side, uint8_t *buf)
{
	size_t meta_len = 2 * side->page_size;
	size_t len = HEAD_SIZE + meta_len;

	memset(buf, 0, HEAD_SIZE);
	memcpy(buf + AT_MAGIC, magic, sizeof(magic));
	put_u32(buf + AT_FLAGS, side->flags);
	put_u32(buf + AT_PAGE_SIZE, (uint32_t)side->page_size);
	put_u64(buf + AT_TXNID, side->txnid);
	put_u64(buf + AT_DEV, side->dev);
	put_u64(buf + AT_INO, side->ino);
	memcpy(buf + AT_TOKEN, side->token, SIDE_TOKEN_SIZE);
	put_u64(buf + AT_TIME, side->time_sec);
	if (meta_len > 0)
		memcpy(buf + HEAD_SIZE, side->meta, meta_len);
	put_u64(buf + len, digest_xxh3(buf, len));
	return len + SUM_SIZE;
}

static int write_all(int fd, const uint8_t *buf, size_t len)
{
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = pwrite(fd, buf + done, len - done, (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

/* Overwrites what is there, without giving its blocks up first. */
static int write_tmp(int dir_fd, const uint8_t *buf, size_t len)
{
	cleanup_close int fd =
		openat(dir_fd, SIDE_TMP_NAME,
		       O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, buf, len);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((size_t)st.st_size != len && ftruncate(fd, (off_t)len) < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

/* Exchange the two where both are there and the file system can do it. */
static int put_in_place(int dir_fd)
{
	if (renameat2(dir_fd, SIDE_TMP_NAME, dir_fd, SIDE_NAME,
		      RENAME_EXCHANGE) == 0)
		return 0;
	if (errno != ENOENT && errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (renameat(dir_fd, SIDE_TMP_NAME, dir_fd, SIDE_NAME) < 0)
		return -errno;
	return 0;
}

static int replace(int dir_fd, const uint8_t *buf, size_t len)
{
	int r = write_tmp(dir_fd, buf, len);

	if (r == 0)
		r = put_in_place(dir_fd);
	if (r == 0 && fsync(dir_fd) < 0)
		r = base_sync_error();
	return r;
}

int side_write(int dir_fd, const struct side *side)
{
	uint8_t *buf = malloc(HEAD_SIZE + 2 * side->page_size + SUM_SIZE);
	int r;

	if (!buf)
		return -ENOMEM;
	r = replace(dir_fd, buf, encode(side, buf));
	free(buf);
	return r;
}
