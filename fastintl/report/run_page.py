"""``report.html``: one run on one page, finished or under way."""

from __future__ import annotations

import base64
import logging
import shlex
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

from fastintl.config import Config, to_yaml
from fastintl.config.options import parse_yaml
from fastintl.report import neighbours, page, panels
from fastintl.report.numbers import compact, duration, memory, percent, short_percent
from fastintl.report.panels import Panel
from fastintl.report.record import RunRecord, flat_keys
from fastintl.runs.summary import PROBES
from loaders.errors import UserError
from loaders.files import write_text

_log = logging.getLogger("fastintl")

_SHARE_OF_TIME = 0.01


def refresh_report(folder: Path) -> None:
    """Writes ``report.html`` into a run folder; a failure is only a warning, since no page is worth a run."""
    try:
        record = RunRecord(folder)
        write_text(record.folder.report, draw(record))
    except Exception as error:  # the full disk and the mistake in a chart alike
        _log.warning("report.html cannot be written now (%s: %s); the run goes on", type(error).__name__, error)


class PageOfARun:
    """``report.html`` of a run under way. Drawing it reads all that the run has written, ever more, and the training
    waits meanwhile: so it is drawn only when the last time has become one percent of the time since then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due = float("-inf")

    def refresh_if_due(self) -> None:
        """Draws it, or leaves it for later."""
        start = time.monotonic()
        if start < self._due:
            return
        refresh_report(self._folder)
        end = time.monotonic()
        self._due = end + (end - start) / _SHARE_OF_TIME


def draw(run: RunRecord) -> str:
    """The page of one run as HTML."""
    return page.document(f"{run.label} · fastintl", _parts(run))


def _parts(run: RunRecord) -> Iterator[str]:
    yield f"<h1>{escape(run.label)}</h1>"
    yield f'<p class="state">{_state(run)}</p>'
    yield from _warnings(run)
    yield page.tiles(_key_figures(run))
    yield page.heading("Learning")
    more = filter(None, [panels.loss_parts(run), panels.gradient_norm(run)])
    yield page.cards([panels.loss([run]), panels.accuracy([run]), panels.learning_rate([run]), *more])
    yield from _neighbours(run)
    yield page.heading("Spectrum of the embedding")
    yield page.cards([panels.effective_rank([run]), *panels.eigenvalues(run)])
    yield page.heading("Speed")
    yield page.cards([panels.throughput([run]), panels.data_wait([run]), _times(run)])
    yield page.heading("Crops")
    yield page.side_by_side(page.card("The first image, in six epochs", _crops(run)), _views(run))
    yield page.heading("Configuration and environment")
    yield page.side_by_side(_settings(run), _environment(run))


def _neighbours(run: RunRecord) -> Iterator[str]:
    """What ``tools/neighbours.py`` left in the run's folder."""
    if run.folder.neighbours.is_file():
        try:
            yield from neighbours.sections(neighbours.read(run.folder.neighbours))
        except UserError as error:
            yield page.warning(str(error))


def _state(run: RunRecord) -> str:
    """One line of HTML: what is trained on what, and how far it is."""
    last_step = run.start.get("last_step")
    done = f"step {run.step:,}" + (f" of {last_step:,}" if last_step else "")
    state = '<b class="good">finished</b>' if run.summary else "<b>under way, or stopped</b>"
    config = run.config
    what = f"{config.get('model.arch', '?')} on {config.get('data.name', '?')}, batch {config.get('train.batch_size')}"
    return f"{state} at {done} · {escape(what)}"


def _warnings(run: RunRecord) -> Iterator[str]:
    rank, possible, limit = (run.last(k) for k in ("effective_rank_whitened", "possible_rank", "collapse_limit"))
    if rank is not None and possible and limit and rank < limit:
        yield page.warning(
            f"The embedding has collapsed: after whitening its effective rank is {compact(rank)} of {possible:.0f}."
        )
    if run.broken:
        lines = ", ".join(map(str, run.broken[:5])) + (" …" if len(run.broken) > 5 else "")
        yield page.warning(f"Left out, since they cannot be read: lines {lines} of {run.folder.metrics.name}.")


def _key_figures(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    score = run.last("knn_top1")
    if score is not None:
        more = ", ".join(f"{name} {percent(value)}" for name, value in run.baselines)
        yield f"{run.config.get('eval.k', 'k')}-nn accuracy", percent(score), more
    for key, name in PROBES.items():
        if (top1 := run.last(key)) is not None:
            top5 = run.last(key.replace("top1", "top5"))
            yield name[0].upper() + name[1:], percent(top1), f"top-5 {percent(top5)}"
    loss = run.last("loss")
    if loss is not None:
        yield "Loss", compact(loss), f"after {compact(run.series('loss')[0][-1])} epochs"
    rank, possible = run.last("effective_rank_whitened"), run.last("possible_rank")
    if rank is not None and possible:
        before = compact(run.last("effective_rank"))
        yield "Effective rank", f"{compact(rank)} of {possible:.0f}", f"after whitening; {before} before"
    if rate := run.images_per_second:
        waits = run.series("data_wait")[1]
        yield "Images/s", compact(rate), f"data-wait {percent(sum(waits) / len(waits))}" if waits else ""
    if run.summary:
        summary = run.summary
        yield "Training time", duration(summary["train_seconds"]), f"{summary['steps']:,} steps, without evaluation"


def _times(run: RunRecord) -> Panel:
    batch = float(run.config.get("train.batch_size", 0))
    first, rate, peak = run.last("first_step_seconds"), run.images_per_second, run.last("peak_gpu_memory")
    rows = [("first step", duration(first))] if first is not None else []
    if rate:
        rows += [("a step after it", duration(batch / rate)), ("images/s", compact(rate))]
        if epoch_steps := run.start.get("epoch_steps"):
            rows.append(("an epoch", duration(epoch_steps * batch / rate)))
    if run.summary:
        rows.append(("training", duration(run.summary["train_seconds"])))
    rows.append(("GPU memory", memory(peak) if peak else "none used"))
    note = "The first step compiles and warms up. Evaluations do not count."
    return Panel("Times and memory", page.table(rows, style="number"), "", note)


def _crops(run: RunRecord) -> str:
    try:
        data = base64.b64encode(run.folder.crops.read_bytes()).decode()
    except OSError:
        return '<p class="nothing">no crops.png in the run folder</p>'
    return f'<img class="crops" alt="an image and its random crops" src="data:image/png;base64,{data}">'


def _views(run: RunRecord) -> str:
    """What is random about each view."""
    crops = run.tree["crops"]
    columns = (crops["sizes"], crops["scales"], crops["blur"], crops["solarize"])
    rows = []
    for n, (size, (low, high), blur, solarize) in enumerate(zip(*columns, strict=True)):
        view = f"{n}, target" if n == 0 and run.config.get("model.ema") == "true" else str(n)
        area = f"{100 * float(low):.3g}–{100 * float(high):.3g} %"
        rows.append((view, f"{size} px", area, short_percent(float(blur)), short_percent(float(solarize))))
    return page.card("Views", page.table(rows, ("view", "side", "area", "blur", "solarise"), "number"))


def _settings(run: RunRecord) -> str:
    default = dict(flat_keys(parse_yaml(to_yaml(Config()), "defaults")))
    changed = [(key, value) for key, value in run.config.items() if value != default.get(key)]
    everything = page.table(list(run.config.items()), style="keys")
    return page.card(
        "Settings other than the defaults",
        page.table(changed, style="keys"),
        f"<details><summary>all {len(run.config)} settings</summary>{everything}</details>",
    )


def _environment(run: RunRecord) -> str:
    start = run.start
    if not start:
        return page.card("Environment", '<p class="nothing">no starts.jsonl in the run folder</p>')
    revision = (start.get("revision") or "unknown")[:12]
    rows = [
        ("command", shlex.join(start.get("command", []))),
        ("ranks", f"{start.get('ranks')} × {start.get('gpu') or start.get('device')}, {start.get('precision')}"),
        ("CPU", f"{start.get('cpu')}, {start.get('cores')} cores"),
        ("images", f"{start.get('pictures', 0):,}, read by {start.get('source')}"),
        ("revision", revision + (", with uncommitted changes" if start.get("uncommitted_changes") else "")),
        ("Python", start.get("python", "")),
        *((name, version) for name, version in start.get("packages", {}).items()),
    ]
    begun = [f"{entry.get('date', '')[:16].replace('T', ' ')} UTC at step {entry['step']:,}" for entry in run.starts]
    shown = begun if len(begun) <= 4 else [begun[0], f"… {len(begun) - 3} more …", *begun[-2:]]
    rows.insert(1, ("started" if len(begun) == 1 else f"{len(begun)} starts", "; ".join(shown)))
    return page.card("Environment" if len(begun) == 1 else "Environment of the last start", page.table(rows))
