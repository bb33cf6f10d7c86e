# SPDX-License-Identifier: MIT
"""What the scenarios took, as tables in Markdown and as a picture."""
from xml.sax.saxutils import escape

from . import replay


def rate_words(bits):
    return "full speed" if bits is None else f"{bits / 1e6:g} Mbit/s"


def _mega(size):
    """@size in MB; 0 only where there was nothing."""
    return _three(size / 1e6) if size else "0"


def _three(value):
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _markdown(rows):
    """@rows, the first of which is the head, with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(
        [row[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])])
        + " |" for row in rows]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":"
                                for width in widths[1:]]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


# Everything was cached before these; what they download, a cover that came
# after pip had begun did not save.
CACHED_STEPS = ("second", "other", "pruned")
LATE = ("\\* this build was the first with a new cache mount, and began to "
        "write into it before the mount was there; what it left was taken "
        "over.")
COPIES = ("The storage driver vfs copies all of an image for each layer: many "
          "of the seconds are that.")


def _is_late(name, step, cost):
    return (name == "pipcachefs" and step in CACHED_STEPS
            and cost["files"] > 0)


def _cost(name, step, cost):
    if not cost:
        return ""
    return (f"{_three(cost['seconds'])} / {_mega(cost['bytes'])}"
            + ("\\*" if _is_late(name, step, cost) else ""))


def _notes(figures):
    """What one has to know of a run."""
    sizes = figures["wheels"].values()
    lines = [f"{figures['engine']} ({figures['storage_driver']}), the other "
             f"engine {figures['other_engine']} "
             f"({figures['other_storage_driver']}); {figures['cores']} cores; "
             f"{len(sizes)} wheels, {_mega(sum(sizes))} MB; added: "
             f"{figures['added']}. One run."]
    if "vfs" in (figures["storage_driver"], figures["other_storage_driver"]):
        lines.append(COPIES)
    if any(_is_late(name, step, cost) for one in figures["passes"]
           for name, result in one["results"].items()
           for step, cost in result.items()):
        lines.append(LATE)
    return "\n\n".join(lines)


def table(figures):
    """The tables: one for each rate, and one of the images."""
    parts = []
    for one in figures["passes"]:
        results = one["results"]
        rows = [[f"{rate_words(one['rate_bits_per_second'])}: s / MB",
                 *(replay.VARIANTS[name] for name in results)]]
        for step, words in replay.STEPS.items():
            rows.append([words] + [_cost(name, step, result.get(step))
                                   for name, result in results.items()])
        parts.append(_markdown(rows))
    if figures.get("images"):
        parts.append(_markdown(
            [["image", "MB"]] + [[replay.IMAGES[key], _mega(size)]
                                 for key, size in figures["images"].items()]))
    parts.append(_notes(figures))
    return "\n\n".join(parts) + "\n"


# ---- the picture ------------------------------------------------------------

BAR, GAP, LEFT, PANEL, BETWEEN, HEAD = 11, 12, 250, 190, 55, 76
# Readable on white and on black; the text follows what the reader has set.
COLOURS = {"naive": "#a3a3a3", "layers": "#c98a3f", "cache": "#5b8fd6",
           "pipcachefs": "#2f9e6e"}
STYLE = """<style>
text { fill: #1f2328; } .page { fill: #ffffff; } .axis { stroke: #8b949e; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .page { fill: #0d1117; }
}
</style>"""


def _text(x, y, words, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def _panels(figures):
    """What is drawn side by side: heading, key, words of a value, results."""
    panels = [("seconds, " + rate_words(one["rate_bits_per_second"]),
               "seconds", _three, one["results"])
              for one in figures["passes"]]
    return panels + [("MB downloaded", "bytes", _mega,
                      figures["passes"][0]["results"])]


def _panel(panel, x, places):
    """One column of bars at @x; @places: y of each (step, variant)."""
    heading, key, words, results = panel
    top = max([cost[key] for steps in results.values()
               for cost in steps.values()] + [1])
    bottom = max(places.values()) + BAR + 4
    parts = [_text(x, HEAD - 12, heading, 'font-weight="bold"'),
             f'<line x1="{x}" y1="{HEAD - 6}" x2="{x}" y2="{bottom}" '
             'class="axis"/>']
    for (step, name), y in places.items():
        if step not in results.get(name, {}):
            continue  # this pass had not got so far
        cost = results[name][step][key]
        width = cost / top * PANEL
        parts.append(f'<rect x="{x}" y="{y}" width="{width:.1f}" '
                     f'height="{BAR}" fill="{COLOURS[name]}"/>')
        parts.append(_text(x + width + 4, y + BAR - 2, words(cost),
                           'font-size="10"'))
    return parts


def _places(results):
    """Where each bar is, from above: (step, variant) -> y; and the steps."""
    places, steps, y = {}, {}, HEAD
    for step in replay.STEPS:
        names = [name for name in results if step in results[name]]
        steps[step] = y + len(names) * BAR / 2
        for name in names:
            places[step, name] = y
            y += BAR + 1
        y += GAP
    return places, steps


def _legend(results):
    parts, x = [], 10
    for name in results:
        parts.append(f'<rect x="{x}" y="26" width="{BAR}" height="{BAR}" '
                     f'fill="{COLOURS[name]}"/>')
        parts.append(_text(x + BAR + 5, 36, replay.VARIANTS[name]))
        x += 40 + 7 * len(replay.VARIANTS[name])
    return parts


def svg(figures):
    """A picture: bars of seconds and MB for each step and variant."""
    results = figures["passes"][0]["results"]
    places, steps = _places(results)
    panels = _panels(figures)
    width = LEFT + len(panels) * (PANEL + BETWEEN)
    height = max(places.values()) + BAR + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">', STYLE,
        f'<rect class="page" width="{width}" height="{height}"/>',
        _text(10, 18, "Image builds with pip: seconds and MB downloaded "
              f"({figures['version']})", 'font-size="14" font-weight="bold"'),
        *_legend(results)]
    for step, y in steps.items():
        parts.append(_text(LEFT - 10, y + 4, replay.STEPS[step],
                           'text-anchor="end"'))
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * (PANEL + BETWEEN), places)
    return "\n".join([*parts, "</svg>", ""])
