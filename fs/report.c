/* SPDX-License-Identifier: MIT */
#include "fs/report.h"

#include <string.h>
#include <time.h>

#include <jansson.h>

#include "fs/units.h"
#include "store/base.h"

/* ---- JSON ---- */

static const char *state_name(enum store_state state)
{
	switch (state) {
	case STORE_READ_ONLY:
		return "read-only";
	case STORE_DISK_FULL:
		return "disk-full";
	case STORE_OK:
		break;
	}
	return "ok";
}

static json_t *text_or_null(const char *text)
{
	return text ? json_string(text) : json_null();
}

struct number {
	const char *key;
	uint64_t value;
};

/* Returns -1 when out of memory. */
static int set_numbers(json_t *object, const struct number *number, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (json_object_set_new(
			    object, number[i].key,
			    json_integer((json_int_t)number[i].value)) < 0)
			return -1;
	return 0;
}

static int set_source(json_t *o, const struct report_source *from)
{
	bool mounted = from->mountpoint != NULL;

	if (json_object_set_new(o, "version", json_string(PIPCACHEFS_VERSION)) <
		    0 ||
	    json_object_set_new(o, "store", text_or_null(from->store)) < 0 ||
	    json_object_set_new(o, "mountpoint",
				text_or_null(from->mountpoint)) < 0 ||
	    json_object_set_new(o, "options", text_or_null(from->options)) <
		    0 ||
	    json_object_set_new(o, "mounted", json_boolean(mounted)) < 0)
		return -1;
	return json_object_set_new(
		o, "pid", from->pid ? json_integer(from->pid) : json_null());
}

/* What became of daemons before this one. */
static int set_past(json_t *o, struct kept *k)
{
	const struct number past[] = {
		{ "daemon_deaths", k ? atomic_load(&k->deaths) : 0 },
		{ "requests_taken_over", k ? atomic_load(&k->taken_over) : 0 },
		{ "requests_replayed", k ? atomic_load(&k->replayed) : 0 },
		{ "requests_given_up", k ? atomic_load(&k->given_up) : 0 },
	};

	if (json_object_set_new(o, "keeper_pid",
				k ? json_integer(atomic_load(&k->keeper_pid))
				  : json_null()) < 0)
		return -1;
	return set_numbers(o, past, ARRAY_SIZE(past));
}

static json_t *used_json(const struct store_status *s)
{
	const struct number used[] = {
		{ "http", s->used_http },
		{ "wheels", s->used_wheels },
		{ "selfcheck", s->used_selfcheck },
		{ "other", s->used_other },
		{ "index", s->used_index },
		{ "freed", s->used_freed },
	};
	json_t *o = json_object();

	if (o && set_numbers(o, used, ARRAY_SIZE(used)) < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static uint64_t saved_bytes(const struct store_status *s)
{
	return s->logical > s->data ? s->logical - s->data : 0;
}

static double ratio_of(const struct store_status *s)
{
	return s->data ? (double)s->logical / (double)s->data : 1;
}

static int set_status(json_t *o, const struct store_status *s, bool mounted)
{
	const struct number amounts[] = {
		{ "limit_bytes", s->limit },
		{ "low_bytes", s->low },
		{ "min_free_bytes", s->min_free },
		{ "grace_seconds", (uint64_t)s->grace_sec },
		{ "charged_bytes", s->charged },
		{ "used_bytes", s->used },
		{ "excess_bytes", s->excess },
		{ "disk_free_bytes", s->disk_free },
		{ "logical_bytes", s->logical },
		{ "disk_data_bytes", s->data },
		{ "saved_bytes", saved_bytes(s) },
		{ "waste_bytes", s->waste },
		{ "index_live_bytes", s->index_live },
	};
	const struct number counts[] = {
		{ "files", s->files },
		{ "files_whole", s->whole },
		{ "recipes", s->recipes },
		{ "blocks", s->blocks },
		{ "entries", s->entries },
		{ "open_files", s->open_files },
		{ "unsummed", s->unsummed },
		{ "hits", s->hits },
		{ "misses", s->misses },
		{ "evictions", s->evictions },
		{ "evicted_bytes", s->evicted_bytes },
		{ "damaged", s->damaged },
		{ "reaped", s->reaped },
		{ "checkpoints", s->checkpoints },
		{ "last_checkpoint", (uint64_t)s->last_checkpoint },
		{ "damaged_blocks", s->damaged_blocks },
		{ "damaged_records", s->damaged_records },
		{ "scrub_bytes", s->scrub_bytes },
		{ "scrub_all_bytes", s->scrub_all },
		{ "last_scrub", (uint64_t)s->last_scrub },
		{ "last_walk", (uint64_t)s->last_walk },
	};
	const struct number since[] = {
		{ "since", mounted ? (uint64_t)s->since : 0 },
	};

	if (set_numbers(o, since, ARRAY_SIZE(since)) < 0 ||
	    json_object_set_new(o, "ratio", json_real(ratio_of(s))) < 0 ||
	    json_object_set_new(o, "state", json_string(state_name(s->state))) <
		    0 ||
	    json_object_set_new(o, "reason", json_string(s->reason)) < 0 ||
	    set_numbers(o, amounts, ARRAY_SIZE(amounts)) < 0 ||
	    json_object_set_new(o, "used", used_json(s)) < 0)
		return -1;
	return set_numbers(o, counts, ARRAY_SIZE(counts));
}

json_t *report_json(const struct report_source *from,
		    const struct store_status *status)
{
	json_t *o = json_object();

	if (o && (set_source(o, from) < 0 || set_past(o, from->kept) < 0 ||
		  set_status(o, status, from->mountpoint != NULL) < 0)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* ---- reading it ---- */

static uint64_t number_of(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static const char *text_of(const json_t *o, const char *key, const char *none)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : none;
}

/* ---- text ---- */

struct text {
	char buf[UNITS_TEXT_MAX];
};

static const char *size_of(const json_t *o, const char *key, struct text *t)
{
	return units_format_size(number_of(o, key), t->buf, sizeof(t->buf));
}

static const char *time_of(const json_t *o, const char *key, struct text *t)
{
	time_t when = (time_t)number_of(o, key);
	struct tm tm;

	if (when == 0 || !localtime_r(&when, &tm) ||
	    strftime(t->buf, sizeof(t->buf), "%Y-%m-%d %H:%M:%S", &tm) == 0)
		return "never";
	return t->buf;
}

static unsigned percent(uint64_t part, uint64_t whole)
{
	return whole ? (unsigned)((double)part * 100 / (double)whole + 0.5) : 0;
}

static void print_state(FILE *out, const json_t *o)
{
	const char *reason = text_of(o, "reason", "");
	struct text t;

	fprintf(out, "store       %s\n", text_of(o, "store", "-"));
	if (json_is_true(json_object_get(o, "mounted")))
		fprintf(out, "mounted on  %s by process %llu since %s\n",
			text_of(o, "mountpoint", "-"),
			(unsigned long long)number_of(o, "pid"),
			time_of(o, "since", &t));
	else
		fprintf(out, "mounted on  - (not mounted)\n");
	if (number_of(o, "daemon_deaths"))
		fprintf(out,
			"daemon      died %llu times; %llu requests were taken over\n",
			(unsigned long long)number_of(o, "daemon_deaths"),
			(unsigned long long)number_of(o,
						      "requests_taken_over"));
	fprintf(out, "state       %s%s%s\n", text_of(o, "state", "-"),
		*reason ? ": " : "", reason);
}

static void print_limit(FILE *out, const json_t *o)
{
	uint64_t limit = number_of(o, "limit_bytes");
	struct text a, b;

	fprintf(out, "limit       %s; eviction goes down to %s\n",
		size_of(o, "limit_bytes", &a), size_of(o, "low_bytes", &b));
	if (number_of(o, "excess_bytes"))
		fprintf(out, "excess      %s above the limit\n",
			size_of(o, "excess_bytes", &a));
	units_format_span((int64_t)number_of(o, "grace_seconds"), a.buf,
			  sizeof(a.buf));
	fprintf(out, "grace       what was used in the last %s stays\n", a.buf);
	fprintf(out, "disk        %s free, %s of it kept free\n",
		size_of(o, "disk_free_bytes", &a),
		size_of(o, "min_free_bytes", &b));
	fprintf(out, "used        %s (%u %% of the limit)\n",
		size_of(o, "used_bytes", &a),
		percent(number_of(o, "used_bytes"), limit));
}

static void print_used(FILE *out, const json_t *o)
{
	static const char *const kinds[] = { "http",  "wheels", "selfcheck",
					     "other", "index",	"freed" };
	const json_t *used = json_object_get(o, "used");
	struct text t;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (number_of(used, kinds[i]))
			fprintf(out, "  %-10s%s\n", kinds[i],
				size_of(used, kinds[i], &t));
}

static void print_sharing(FILE *out, const json_t *o)
{
	struct text a, b, c;

	fprintf(out, "files       %s in %s (ratio %.2f): %s saved\n",
		size_of(o, "logical_bytes", &a),
		size_of(o, "disk_data_bytes", &b),
		json_number_value(json_object_get(o, "ratio")),
		size_of(o, "saved_bytes", &c));
	if (number_of(o, "waste_bytes"))
		fprintf(out, "waste       %s, to be given back\n",
			size_of(o, "waste_bytes", &a));
}

static void print_counts(FILE *out, const json_t *o)
{
	uint64_t hits = number_of(o, "hits"), misses = number_of(o, "misses");
	struct text t;

	fprintf(out, "entries     %llu in %llu files, %llu open\n",
		(unsigned long long)number_of(o, "entries"),
		(unsigned long long)number_of(o, "files"),
		(unsigned long long)number_of(o, "open_files"));
	fprintf(out, "hits        %llu, misses %llu (%u %% hits)\n",
		(unsigned long long)hits, (unsigned long long)misses,
		percent(hits, hits + misses));
	fprintf(out, "evicted     %llu entries, %s\n",
		(unsigned long long)number_of(o, "evictions"),
		size_of(o, "evicted_bytes", &t));
	fprintf(out, "checkpoint  %s\n", time_of(o, "last_checkpoint", &t));
}

static void print_health(FILE *out, const json_t *o)
{
	uint64_t bytes = number_of(o, "scrub_bytes");
	uint64_t all = number_of(o, "scrub_all_bytes");
	struct text t;

	if (number_of(o, "damaged") || number_of(o, "damaged_blocks"))
		fprintf(out, "damaged     %llu files, dropped; %llu blocks\n",
			(unsigned long long)number_of(o, "damaged"),
			(unsigned long long)number_of(o, "damaged_blocks"));
	if (number_of(o, "damaged_records"))
		fprintf(out,
			"            %llu records of the index, by the last walk\n",
			(unsigned long long)number_of(o, "damaged_records"));
	fprintf(out, "scrub       %s", time_of(o, "last_scrub", &t));
	if (bytes < all)
		fprintf(out, "; the next one is at %u %%",
			(unsigned)((double)bytes * 100 / (double)all));
	fprintf(out, "; index walked %s\n", time_of(o, "last_walk", &t));
}

void report_text(FILE *out, const json_t *report)
{
	print_state(out, report);
	print_limit(out, report);
	print_used(out, report);
	print_sharing(out, report);
	print_counts(out, report);
	print_health(out, report);
}

/* ---- Prometheus ---- */

struct metric {
	const char *key; /* in the JSON object */
	const char *name;
	const char *type;
	const char *help;
};

static const struct metric metrics[] = {
	{ "limit_bytes", "limit_bytes", "gauge",
	  "What the store may take of its disk." },
	{ "low_bytes", "low_bytes", "gauge", "Where eviction stops." },
	{ "min_free_bytes", "min_free_bytes", "gauge",
	  "What is left free of the disk." },
	{ "grace_seconds", "grace_seconds", "gauge",
	  "For so long what was used is not evicted." },
	{ "charged_bytes", "charged_bytes", "gauge",
	  "Upper bound of what the store takes." },
	{ "used_bytes", "used_bytes", "gauge",
	  "What the store takes of its disk." },
	{ "excess_bytes", "excess_bytes", "gauge", "Charged above the limit." },
	{ "disk_free_bytes", "disk_free_bytes", "gauge",
	  "What is free on the disk." },
	{ "logical_bytes", "logical_bytes", "gauge", "What is in files." },
	{ "disk_data_bytes", "disk_data_bytes", "gauge",
	  "What is kept of it, equal pieces once." },
	{ "saved_bytes", "saved_bytes", "gauge", "What sharing saves." },
	{ "waste_bytes", "waste_bytes", "gauge",
	  "What packs take beyond what is in them." },
	{ "index_live_bytes", "index_live_bytes", "gauge",
	  "Pages of the index that are in use." },
	{ "files", "files", "gauge", "Files in the store." },
	{ "files_whole", "files_whole", "gauge",
	  "Files in blocks that lie together as they were written." },
	{ "recipes", "recipes", "gauge", "Files in blocks." },
	{ "blocks", "blocks", "gauge", "Pieces of files, each stored once." },
	{ "entries", "entries", "gauge", "Cache entries in the store." },
	{ "open_files", "open_files", "gauge", "Files open now." },
	{ "unsummed", "unsummed_files", "gauge",
	  "Files whose checksum is not taken yet." },
	{ "hits", "hits_total", "counter", "Cached bodies opened." },
	{ "misses", "misses_total", "counter", "Cached bodies newly written." },
	{ "evictions", "evictions_total", "counter", "Entries evicted." },
	{ "evicted_bytes", "evicted_bytes_total", "counter",
	  "Bytes that eviction brought back." },
	{ "damaged", "damaged_files_total", "counter",
	  "Files dropped because their bytes were wrong." },
	{ "reaped", "reaped_files_total", "counter",
	  "Abandoned temporary files removed." },
	{ "checkpoints", "checkpoints_total", "counter", "Checkpoints taken." },
	{ "last_checkpoint", "last_checkpoint_timestamp_seconds", "gauge",
	  "When the last checkpoint was taken." },
	{ "damaged_blocks", "damaged_blocks_total", "counter",
	  "Blocks whose bytes were found wrong." },
	{ "damaged_records", "damaged_records", "gauge",
	  "Records of the index that the last walk found damaged." },
	{ "scrub_bytes", "scrub_bytes", "gauge",
	  "Bytes read by the scrub that is under way, or by the last one." },
	{ "scrub_all_bytes", "scrub_all_bytes", "gauge",
	  "Bytes that it reads in all, about." },
	{ "last_scrub", "last_scrub_timestamp_seconds", "gauge",
	  "When all bytes had been read and compared." },
	{ "last_walk", "last_walk_timestamp_seconds", "gauge",
	  "When all records of the index had been read." },
};

/* A label's value, with \, " and newline escaped. */
static void print_label(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			fputc('\\', out);
		if (*value == '\n')
			fputs("\\n", out);
		else
			fputc(*value, out);
	}
}

static void print_head(FILE *out, const struct metric *m)
{
	fprintf(out, "# HELP pipcachefs_%s %s\n# TYPE pipcachefs_%s %s\n",
		m->name, m->help, m->name, m->type);
}

/* @label: a second one, as `,kind="http"`, or "". */
static void print_sample(FILE *out, const char *name, const char *store,
			 const char *label, uint64_t value)
{
	fprintf(out, "pipcachefs_%s{store=\"", name);
	print_label(out, store);
	fprintf(out, "\"%s} %llu\n", label, (unsigned long long)value);
}

static void print_kinds(FILE *out, const json_t *report, const char *store)
{
	static const struct metric head = { "used", "kind_bytes", "gauge",
					    "Bytes in the store, by kind." };
	const char *kind;
	json_t *value;
	char label[64];

	print_head(out, &head);
	json_object_foreach(json_object_get(report, "used"), kind, value)
	{
		snprintf(label, sizeof(label), ",kind=\"%s\"", kind);
		print_sample(out, head.name, store, label,
			     (uint64_t)json_integer_value(value));
	}
}

static void print_states(FILE *out, const json_t *report, const char *store)
{
	static const struct metric up = { "mounted", "mounted", "gauge",
					  "1 while the store is mounted." };
	static const struct metric head = {
		"state", "state", "gauge",
		"1 for the state that the store is in."
	};
	const char *state = text_of(report, "state", "");
	char label[64];

	print_head(out, &up);
	print_sample(out, up.name, store, "",
		     json_is_true(json_object_get(report, "mounted")));
	print_head(out, &head);
	for (int s = STORE_OK; s <= STORE_DISK_FULL; s++) {
		const char *name = state_name((enum store_state)s);

		snprintf(label, sizeof(label), ",state=\"%s\"", name);
		print_sample(out, head.name, store, label,
			     strcmp(name, state) == 0);
	}
}

void report_prometheus(FILE *out, const json_t *report)
{
	const char *store = text_of(report, "store", "");

	print_states(out, report, store);
	for (size_t i = 0; i < ARRAY_SIZE(metrics); i++) {
		print_head(out, &metrics[i]);
		print_sample(out, metrics[i].name, store, "",
			     number_of(report, metrics[i].key));
	}
	print_kinds(out, report, store);
}
