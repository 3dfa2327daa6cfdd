"""Results as Markdown and as a picture."""

from pathlib import Path


def head(facts: dict) -> str:
    """Return the lines above a table: command, device, versions, matrix rate."""
    device = facts["device"]
    memory = f", {device['memory_gib']} GiB, driver {device['driver']}" if device["cuda"] else ""
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in device["versions"].items())
    return (
        f"```\n{facts['command']}\n```\n\n"
        f"{device['device']}{memory}, {device['cores']} CPU cores. {packages}. Matrix rate {device['matmul']}: "
        f"{device['matmul_tflops']:.3g} TFLOP/s. {facts['rows']}\n"
    )


def fixed(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def pair(row: dict, allocated: str, reserved: str) -> str:
    return "-" if row[allocated] is None else f"{row[allocated]:.1f} ({row[reserved]:.1f})"


def settings_table(results: list[dict]) -> str:
    """Return two Markdown tables of settings: speed and memory, then where the time goes."""
    lines = [
        "| setting | samples/s | tokens/s | MFU | GiB allocated (reserved) | of it while loading | "
        "host RSS GiB loading, run | loss first, last |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shares = [
        "| setting | waiting for data | forward | backward | optimizer | rest | GPU utilisation | "
        "samples of it below 50 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for row in results:
        if "error" in row or "skipped" in row:
            what = "failed" if "error" in row else "skipped"
            why = (row.get("skipped") or row["error"].splitlines()[-1]).replace("|", "\\|")
            lines.append(f"| {row['setting']} | {what}: {why[:300]} | | | | | | |")
            continue

        rss = f"{fixed(row['loading_host_rss_gib'])}, {fixed(row['peak_host_rss_gib'])}"
        lines.append(
            f"| {row['setting']} | {row['samples_per_second']:.2f} | {row['tokens_per_second']:.0f} "
            f"| {100 * row['mfu']:.1f} % | {pair(row, 'peak_allocated_gib', 'peak_reserved_gib')} "
            f"| {pair(row, 'loading_allocated_gib', 'loading_reserved_gib')} | {rss} "
            f"| {fixed(row['first_loss'], 3)}, {fixed(row['last_loss'], 3)} |"
        )
        if row["shares"]:
            parts = [f"{100 * row['shares'][part]:.1f} %" for part in ("data", "forward", "backward")]
            parts += [f"{100 * row['shares'][part]:.1f} %" for part in ("optimizer", "rest")]
            used = row["gpu_utilisation"]
            parts += [f"{used['mean_percent']:.0f} %", f"{100 * used['share_below_50']:.0f} %"] if used else ["-", "-"]
            shares.append(f"| {row['setting']} | {' | '.join(parts)} |")

        if row.get("note"):
            notes.append(f"- {row['setting']}: {row['note']}")

    tables = ["\n".join(lines)]
    if len(shares) > 2:
        tables.append("\n".join(shares))

    return "\n\n".join([*tables, "\n".join(notes)]).strip() + "\n"


def sweep_table(result: dict) -> str:
    """Return a sweep as a Markdown table, and why it ended early."""
    lines = [
        "| series x points | tokens a sample | samples/s | tokens/s | MFU | GiB allocated (reserved) | host RSS GiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result.get("blocks", []):
        lines.append(
            f"| {row['series']} x {row['points']} | {row['tokens_per_sample']:.0f} "
            f"| {row['samples_per_second']:.2f} | {row['tokens_per_second']:.0f} | {100 * row['mfu']:.1f} % "
            f"| {pair(row, 'peak_allocated_gib', 'peak_reserved_gib')} | {fixed(row['peak_host_rss_gib'])} |"
        )

    ended = result.get("error") or result.get("ended")
    return "\n".join(lines) + "\n" + (f"\nEnded early: {ended.splitlines()[-1]}\n" if ended else "")


def plot_sweep(name: str, blocks: list[dict], device: str, path: Path) -> None:
    """Draw samples/s and memory over the size of a sample, log-x.

    Args:
        name: ``lengths`` or ``series``.
        blocks: at least one.
        device: goes into the title.
        path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    key, label = ("points", "points of the series") if name == "lengths" else ("series", "series of 1,024 points")
    sizes = [block[key] for block in blocks]
    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    speed.plot(sizes, [block["samples_per_second"] for block in blocks], marker="o")
    speed.set_ylabel("samples/s")
    if blocks[0]["peak_allocated_gib"] is not None:
        for kind in ("reserved", "allocated"):
            memory.plot(sizes, [block[f"peak_{kind}_gib"] for block in blocks], marker="o", label=kind)

        memory.set_ylabel("peak GPU memory, GiB")
        memory.legend()
    else:
        memory.plot(sizes, [block["peak_host_rss_gib"] for block in blocks], marker="o")
        memory.set_ylabel("peak host RSS, GiB (no GPU)")

    for axis in (speed, memory):
        axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.get_lines()))
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axis.set_xlabel(f"{label} in a sample")
        axis.grid(alpha=0.3)

    figure.suptitle(f"Training on {device}, 2 samples per optimizer step")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
