# SPDX-License-Identifier: MIT
"""Figures as a table for a terminal and as an SVG chart."""
from xml.sax.saxutils import escape

# What is drawn and printed, in this order; pipcachefs comes first.
FIRST = "pipcachefs"


def percent(part, whole):
    return None if part is None else 100.0 * part / whole


def _cell(value, form):
    return "-" if value is None else format(value, form)


def _mega(value):
    return None if value is None else value / 1e6


def _grid(rows):
    """@rows as text, the first column aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])]
                  + [cell.rjust(width)
                     for cell, width in zip(row[1:], widths[1:])])
        for row in rows)


def table(sets):
    """The figures of all @sets (name -> figures) as text."""
    rows = [["set", "files", "raw MB", "on disk %", "unique %", "index MB",
             "index %", "waste %", "whole", "extents", "ingest MB/s",
             "per core", "settle s", "verified"]]
    for name, figures in sets.items():
        raw, own = figures["raw_bytes"], figures[FIRST]
        extents = [own[f"extents_{key}"] for key in ("median", "p90", "max")]
        index = None if own["unique_bytes"] is None else \
            percent(own["index_live_bytes"], own["unique_bytes"])
        rows.append([
            name, str(figures["files"]), f"{raw / 1e6:.1f}",
            _cell(percent(own["disk_bytes"], raw), ".1f"),
            _cell(percent(own["unique_bytes"], raw), ".1f"),
            _cell(_mega(own["index_bytes"]), ".1f"), _cell(index, ".2f"),
            _cell(percent(own["waste_bytes"], own["used_bytes"]), ".1f"),
            _cell(own["files_whole"], "d"),
            "-" if None in extents else "/".join(f"{x:.0f}" for x in extents),
            _cell(_mega(own["ingest_bytes_per_second"]), ".0f"),
            _cell(_mega(own["ingest_bytes_per_cpu_second"]), ".0f"),
            _cell(own["settle_seconds"], ".1f"), str(own["verified"])])
    text = _grid(rows)
    names = _peers(sets)
    if names:
        rows = [["% of raw, on disk", FIRST, *names]]
        for name, figures in sets.items():
            sizes = [figures[FIRST]] + [figures["peers"].get(n, {})
                                        for n in names]
            rows.append([name] + [
                _cell(percent(size.get("disk_bytes"), figures["raw_bytes"]),
                      ".1f") for size in sizes])
        text += "\n\n" + _grid(rows)
    return text


def _peers(sets):
    """The peers that any set has, in the order of the first."""
    names = {}
    for figures in sets.values():
        names.update(dict.fromkeys(figures["peers"]))
    return list(names)


BAR, GAP, LEFT, WIDTH, RIGHT = 16, 6, 110, 560, 60
COLOURS = {FIRST: "#1f6f8b", "solid": "#b9b9b9", "squashfs": "#b9b9b9"}
PEER_COLOUR = "#d99a5b"


def _text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def _rect(x, y, width, colour, more=""):
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{BAR}" fill="{colour}" {more}/>')


def _bars(name, figures, y, scale):
    """One set's bars from @y on; returns the parts and the next y."""
    raw = figures["raw_bytes"]
    parts = [_text(0, y + 12, f"{name}: {figures['files']} files, "
                   f"{raw / 1e6:.0f} MB", 'font-weight="bold"')]
    y += BAR + GAP
    for who, size in [(FIRST, figures[FIRST]), *figures["peers"].items()]:
        disk = percent(size.get("disk_bytes"), raw)
        if disk is None:
            continue
        colour = COLOURS.get(who, PEER_COLOUR)
        unique = percent(size.get("unique_bytes"), raw)
        parts.append(_text(LEFT - 8, y + 12, who, 'text-anchor="end"'))
        if unique is None:
            parts.append(_rect(LEFT, y, disk * scale, colour))
            words = f"{disk:.1f}"
        else:
            parts.append(_rect(LEFT, y, disk * scale, colour,
                               'fill-opacity="0.4"'))
            parts.append(_rect(LEFT, y, unique * scale, colour))
            words = f"{unique:.1f} ({disk:.1f})"
        parts.append(_text(LEFT + disk * scale + 5, y + 12, words,
                           'stroke="white" stroke-width="3" '
                           'paint-order="stroke"'))
        y += BAR + GAP
    return parts, y + GAP


def svg(sets, version):
    """A chart: bars of % of raw bytes, per set and peer."""
    top = max([100.0] + [percent(size["disk_bytes"], figures["raw_bytes"])
                         for figures in sets.values()
                         for size in [figures[FIRST],
                                      *figures["peers"].values()]
                         if size.get("disk_bytes") is not None])
    scale, y, parts = (WIDTH - LEFT - RIGHT) / top, 58, []
    first = y
    for name, figures in sets.items():
        more, y = _bars(name, figures, y, scale)
        parts += more
    line = (f'<line x1="{LEFT + 100 * scale:.1f}" y1="{first}" '
            f'x2="{LEFT + 100 * scale:.1f}" y2="{y}" stroke="#888" '
            'stroke-dasharray="3 3"/>')
    head = [_text(0, 14, f"Bytes on disk, % of the files ({version})",
                  'font-size="14" font-weight="bold"'),
            _text(0, 34, f"{FIRST}: dark is what is in use, light the rest of "
                  "what du says; grey can only be read")]
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 20}" '
         f'height="{y + 10}" viewBox="-10 -6 {WIDTH + 20} {y + 10}" '
         'font-family="sans-serif" font-size="12">',
         f'<rect x="-10" y="-6" width="{WIDTH + 20}" height="{y + 10}" '
         'fill="white"/>', *head, line, *parts, "</svg>", ""])
