"""The report: tables in Markdown from what was measured."""

import statistics

from figures import spread, table

BASE = ("nginx", "haproxy")


def load_tables(case, names, rounds, notes):
    """One case: the figures of every proxy, and its CPU to the better of nginx and HAProxy and to each peer."""
    rows = []
    for name in names:
        own = [results[name] for results in rounds if name in results]
        if not own:
            rows.append([name, notes.get(name, "not measured")] + ["–"] * 5)
            continue
        cpu, rate = (spread([r[key] for r in own], digits) for key, digits in (("cpu", 1), ("rate", 0)))
        rate += " (asked for more)" if any(r["held"] is False for r in own) else ""
        rate += f" ({failed:,} failed)" if (failed := sum(r["failed"] for r in own)) else ""
        latencies = [spread([r[key] for r in own], 0) if own[0][key] is not None else "–" for key in ("p50", "p99", "p999")]
        ratios = to_base(name, rounds)
        rows.append([name, cpu, rate, *latencies, spread(ratios, 2) if ratios else "–"])
    heads = ["", "CPU µs/request", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU to the better of nginx, HAProxy"]
    return f"### {case.title}\n\n{table(heads, rows)}"


def to_base(name, rounds, key="cpu"):
    """Each round's own ratio to the better of nginx and HAProxy: what disturbs a round disturbs all of it."""
    found = []
    for results in rounds:
        base = [results[peer][key] for peer in BASE if peer in results]
        if base and name in results:
            found.append(results[name][key] / min(base))
    return found


def to_peer(name, peer, rounds, key="cpu"):
    return [results[name][key] / results[peer][key] for results in rounds if name in results and peer in results]


def overview(cases, names, load, notes):
    """Tealgate's CPU per request to the others', all cases on one page."""
    peers = [name for name in names if name != "tealgate"]
    rows = []
    for case in cases:
        rounds = load[case.name]
        if not any("tealgate" in results for results in rounds):
            rows.append([case.title, notes[case.name].get("tealgate", "not measured"), "–"] + ["–"] * len(peers))
            continue
        ratios = to_base("tealgate", rounds)
        aim = f"≤ {case.aim:.2f}" if case.aim else "–"
        others = [to_peer("tealgate", peer, rounds) for peer in peers]
        rows.append([case.title, spread(ratios, 2) if ratios else "–", aim, *[f"{statistics.median(o):.2f}" if o else "–" for o in others]])
    heads = ["Tealgate's CPU per request", "to the better of nginx, HAProxy", "aim", *[f"to {peer}" for peer in peers]]
    return f"## CPU per request, ratios within a round\n\n{table(heads, rows)}"


def latency_overview(case, names, rounds):
    """p99 at a fixed rate, as a ratio to the better of nginx and HAProxy."""
    rows = [[name, spread(to_base(name, rounds, "p99"), 2)] for name in names if to_base(name, rounds, "p99")]
    return f"p99 of “{case.title}” to the better of nginx and HAProxy:\n\n{table(['', 'ratio'], rows)}" if rows else ""


def peaks_table(peaks):
    rows = [[name, mib(peak), mib(rss), mib(pss)] for name, (peak, rss, pss) in peaks.items()]
    return f"### After all that load, MiB\n\n{table(['', 'peak RSS', 'RSS at the end', 'PSS at the end'], rows)}"


def idle_table(results, count):
    rows = []
    for name, result in results.items():
        cells = [name, f"{mib(result['plain']['rss'])} / {mib(result['plain']['pss'])}"]
        for kind in ("plain", "tls"):
            r = result[kind]
            cells += [f"{mib(r['rss_idle'])} / {mib(r['pss_idle'])}", f"{r['each']:,.0f}"]
        rows.append(cells)
    heads = ["", "RSS / PSS MiB, none", "plain: RSS / PSS MiB", "octets each (PSS)", "TLS: RSS / PSS MiB", "octets each (PSS)"]
    return f"### {count:,} idle connections\n\n{table(heads, rows)}"


def slow_table(results, counts):
    rows = []
    for name, result in results.items():
        rows.append([name, f"{counts[name]:,}", mib(result["pss"]), mib(result["pss_slow"]), f"{result['each'] / 1024:.1f}"])
    return f"### Slow readers of 100 MiB each\n\n{table(['', 'readers', 'PSS MiB before', 'PSS MiB at most', 'KiB each'], rows)}"


def flip_table(results, skipped):
    rows = []
    for name, r in results.items():
        rows.append([name, f"{r['failed']:,} of {r['requests']:,}", f"{r['stale']:,}", f"{r['stale_ms']:.1f}" if r["stale"] else "–",
                     spread(r["ack_ms"], 1), spread(r["first_ms"], 1), f"{r['worst_ms']:.1f} ({r['quiet_p99_ms']:.1f})",
                     f"{r['broken']['events']} of {r['held']}, {r['broken']['tunnels']} of {r['held']}", r["word"]])
    rows += [[name, note] + ["–"] * 7 for name, note in skipped.items()]
    heads = ["", "failed requests", "stale answers after the acknowledgement", "the last of them, ms after it", "acknowledged after, ms",
             "first new answer after, ms", "worst latency near a flip (quiet p99), ms", "streams broken: events, tunnels", "acknowledged when"]
    text = table(heads, rows)
    for name, r in results.items():
        for error, count in r["errors"].items():
            text += f"\n- {name}: {count:,} × {error}"
        if r.get("barriers"):
            text += f"\n- {name}: the barrier took {spread(r['barriers'], 2)} ms"
    return text + "\n"


def cliff_table(r):
    def row(label, part):
        if part["worst_mean_us"] is None:
            return [label, "–", "–", "–", "–"]
        worst = part["worst_mean_us"]
        return [label, f"{part['windows']:,}", f"{worst:,.0f}", f"{worst / r['quiet_p99_us']:.2f}", f"{part['p99_us']:,.0f}"]

    heads = ["", "windows", "worst mean of a window, µs", "to the quiet p99", "p99 of all in them, µs"]
    rows = [row("around flips", r["flips"]), row("as many in the quiet time", r["quiet"])]
    return f"### No cliff: windows of 10 ms at {r['rate']:,} requests/s, quiet p99 {r['quiet_p99_us']:,} µs\n\n{table(heads, rows)}"


def mib(kib):
    return f"{kib / 1024:.1f}"
