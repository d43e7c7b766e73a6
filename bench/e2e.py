"""End to end: one-reading JSON messages at QoS 1, decoded, admitted, committed, acknowledged, each through 50 rules, into history.

Figures: rate that is sustained with nothing lost and a flat backlog, beside a C subscriber that does nothing on the same broker; time
from publishing a sample to receiving its command, beside a timer probe; CPU share of packed arrays; memory with 10,000 devices.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.rig import BUILD, Rig, cpu_seconds, loadgen, pin, rig, rss_mb, run_json, wait_until
from telemetry.site import SiteConfig

Row = dict[str, Any]
MEMBERS = 1824
GROWTH_MAX = 1.5  # of the latency over a run; a queue that grows by 1 % of 21,000/s is 3 s longer after 5 minutes
GROWTH_RUN_S = 120  # shorter runs show the growth and are not judged by it: one pause of the machine would decide
POINTS = ["supply_air_temperature_c", *(f"duct_{i}_temperature_c" for i in range(1, 10))]


def site_config(*, devices: int, windows: int = 0, members: int = 0) -> SiteConfig:
    """A site of `devices` devices with 10 points and 50 rules, 5 a point; the first one moves the device's relay."""
    rules: list[Row] = [
        {"id": "SPIKE", "when": f"{POINTS[0]} > 90", "demand": {"actuator": "relay", "value": 100, "level": "temperature"}}
    ]
    for k, point in enumerate(POINTS):
        rules += [
            {"id": f"R{k}-{j}", "when": f"{point} > {96 + j}", "hysteresis": 1, "on_delay_s": 5, "priority": "P3"}
            for j in range(5 if k else 4)
        ]
    for k in range(windows):
        rules[-1 - k] |= {"when": f"mean({POINTS[k % len(POINTS)]}, 10 min) > {96 + k}"}
    profile: Row = {
        "name": "bench", "receipts": False,
        "points": [{"name": p, "unit": "C", "low": -50, "high": 150, "heartbeat_s": 60} for p in POINTS],
        "actuators": [{"name": "relay", "travel_s": 0, "min_step": 1, "fail_safe": "hold", "expiry_s": 30}],
        "rules": rules,
    }  # fmt: skip
    if members:
        spindles = {"name": "spindle_rpm", "unit": "rpm", "low": 0, "high": 30000, "members": members, "deadband": 100}
        profile["points"].append(spindles)
    return SiteConfig.model_validate({
        "v": 1, "site": "bench", "origin": "LIVE", "areas": [{"name": "hall"}], "profiles": {"bench": profile},
        "devices": [{"name": "dev", "profile": "bench", "area": "hall", "count": devices}],
    })  # fmt: skip


def write_site(directory: Path, config: SiteConfig) -> Path:
    """The configuration as the files that `fieldloom apply` takes."""
    raw = json.loads(config.canonical())
    profiles = raw.pop("profiles")
    (directory / "profiles").mkdir(parents=True)
    for name, profile in profiles.items():
        (directory / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    (directory / "site.yaml").write_text(yaml.safe_dump(raw | {"profiles": list(profiles)}, sort_keys=False))
    return directory


def load(r: Rig, *, rate: float, seconds: float, raw: Path | None = None, cpu: int | None = None, devices: int = 1000) -> Row:
    """One run of the generator and what it saw."""
    command = [
        *pin(cpu),
        loadgen(),
        "--port",
        str(r.port),
        "--rate",
        str(rate),
        "--seconds",
        str(seconds),
        "--devices",
        str(devices),
    ]
    if raw is not None:
        command += ["--raw", str(raw)]
    return run_json(command, timeout_s=seconds + 120)


def counted(r: Rig, devices: int = 1000) -> int:
    """Samples that history answers for, asked point by point over the API."""
    token = r.fieldloom("login", "--token").strip()
    path = f"http://127.0.0.1:{r.web_port}/api/v1/sites/bench/devices"
    total, now_ms = 0, int(time.time() * 1000)
    asked = {"start_ms": now_ms - 86_400_000, "end_ms": now_ms + 60_000, "points": 1}
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        for k in range(devices):
            view = client.get(f"{path}/dev-{k}/points/{POINTS[0]}/history", params=asked).raise_for_status().json()
            total += len(view["samples"]) if view["samples"] is not None else sum(b["count"] for b in view["buckets"])
    return total


def stored(r: Rig) -> float:
    """Samples written to history so far, as web counts them."""
    return r.metric('fieldloom_history_rows_total{result="written"}')


def growth(raw: Path) -> float:
    """How much longer a command took in the last fifth of a run than in the second one (medians): 1 = the backlog is flat.

    The first fifth is left out: buffers fill until the rate is the slower side's.
    """
    latencies = [float(line) for line in raw.read_text().split() if line != "latency_ms"]
    fifth = len(latencies) // 5
    return statistics.median(latencies[-fifth:]) / statistics.median(latencies[fifth : 2 * fifth]) if fifth else 1.0


def check(sent: Row, in_history: float) -> str:
    """Why a run counts for nothing, or "" when all adds up."""
    if in_history != sent["sent"]:
        return f"sent {sent['sent']}, in history {in_history:.0f}"
    if sent["commands_received"] != sent["commands_expected"] or sent["commands_unexpected"]:
        return f"commands expected {sent['commands_expected']}, received {sent['commands_received']}"
    return ""


def c_subscriber_rate(r: Rig, count: int) -> float:
    """What a C subscriber that only counts receives from this broker, with one publisher."""
    command = [str(BUILD / "subscriber"), "127.0.0.1", str(r.port), "", "", "fl/reference/#", str(count)]
    subscriber = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert subscriber.stderr is not None
    subscriber.stderr.readline()
    run_json([str(BUILD / "publisher"), "127.0.0.1", str(r.port), "fl/reference/dev-0/telemetry", str(count)], timeout_s=120)
    output, _ = subscriber.communicate(timeout=60)
    return float(json.loads(output)["rate"])


def bench_rate(*, seconds: float, rate: float) -> list[Row]:
    """Sustained rate: everything stored and answered, and no more waiting at the end than after the first tenth."""
    with rig() as r:
        reference = statistics.median(c_subscriber_rate(r, 100_000) for _ in range(3))
        r.start_service(write_site(r.directory / "site", site_config(devices=1000)))
        assert r.core is not None
        before, began = cpu_seconds(r.core.pid), time.monotonic()
        sent = load(r, rate=rate, seconds=seconds, raw=BUILD / "e2e.rate.csv")
        busy = (cpu_seconds(r.core.pid) - before) / (time.monotonic() - began)
        wait_until(lambda: stored(r) >= sent["sent"], f"history has {stored(r):.0f} of {sent['sent']}", 60)
        in_history = counted(r)
        growing = growth(BUILD / "e2e.rate.csv")
        grows = seconds >= GROWTH_RUN_S and growing >= GROWTH_MAX
        problem = check(sent, in_history) or (f"the backlog grows: latency times {growing:.1f}" if grows else "")
        evidence = {**sent, "stored": in_history, "core_cpu": busy, "latency_growth": growing, "problem": problem}
    (BUILD / "e2e.rate.json").write_text(json.dumps(evidence, indent=1))
    lost = sent["sent"] - evidence["stored"]
    if problem:
        return [row("e2e.rate", None, "1/s", None, problem), row("e2e.lost", lost, "messages")]
    return [
        row("e2e.rate", sent["rate"], "1/s", reference),
        row("e2e.rate_of_c_subscriber", sent["rate"] / reference, "1"),
        row("e2e.lost", lost, "messages"),
        row("e2e.rate_core_cpu", busy, "cores"),
        row("e2e.rate_p99_ms", sent["p99_ms"], "ms"),
        row("e2e.rate_latency_growth", growing, "1"),
    ]


def bench_latency(*, runs: int, seconds: float) -> list[Row]:
    """p50 and p99 from sample published to command received at 10,000/s; broker and generator on core 0, the service on core 1."""
    quiet, busy, probes = [], [], []
    repeated = 0
    for k in range(runs):
        for queries in (False, True):
            while True:
                probe = run_json([str(BUILD / "probe"), "1", "2"], timeout_s=30)
                if probe["p99_ms"] <= 2.0 or repeated > 20:
                    break
                repeated += 1
            result = latency_run(
                seconds=seconds, raw=BUILD / f"e2e.latency.{k}.{'queries' if queries else 'quiet'}.csv", queries=queries
            )
            (busy if queries else quiet).append(result)
            probes.append(probe["p99_ms"])
    (BUILD / "e2e.latency.json").write_text(json.dumps({"quiet": quiet, "queries": busy, "probe_p99_ms": probes}, indent=1))
    problems = sorted({r["problem"] for r in quiet + busy} - {""})
    if problems:
        return [row("e2e.p99_ms", None, "ms", None, "; ".join(problems))]
    p99 = statistics.median(r["p99_ms"] for r in quiet)
    return [
        row("e2e.p50_ms", statistics.median(r["p50_ms"] for r in quiet), "ms"),
        row("e2e.p99_ms", p99, "ms", statistics.median(probes)),
        row("e2e.probe_p99_ms", statistics.median(probes), "ms"),
        row("e2e.probe_repeated", repeated, "runs"),
        row("e2e.p99_under_queries_ratio", statistics.median(r["p99_ms"] for r in busy) / p99, "1"),
        row("e2e.queries_s", statistics.median(r["queries"] / seconds for r in busy), "1/s"),
    ]


def latency_run(*, seconds: float, raw: Path, queries: bool) -> Row:
    """One run on a fresh service; with `queries`, a client asks API and history without pause meanwhile."""
    with rig(broker_cpu=0, service_cpu=1) as r:
        r.start_service(write_site(r.directory / "site", site_config(devices=1000)))
        load(r, rate=2000, seconds=2, cpu=0)  # caches warm, kernels loaded
        settled = stored_when_still(r)
        hammer = start_hammer(r) if queries else None
        sent = load(r, rate=10_000, seconds=seconds, raw=raw, cpu=0)
        problem, asked = stop_hammer(hammer)
        total = stored_when_still(r)
        return {**sent, "stored": total - settled, "queries": asked, "problem": check(sent, total - settled) or problem}


def start_hammer(r: Rig) -> subprocess.Popen[bytes]:
    """A program on the generator's core that asks the API for latest values and history as fast as it answers."""
    url = f"http://127.0.0.1:{r.web_port}/api/v1/sites/bench"
    token = r.fieldloom("login", "--token").strip()
    script = (
        "import httpx,itertools,time\n"
        f"c=httpx.Client(headers={{'Authorization':'Bearer {token}'}},timeout=30)\n"
        "for i in itertools.count(1):\n"
        f"  c.get('{url}/devices').raise_for_status()\n"
        f"  c.get('{url}/devices/dev-%d/points/{POINTS[0]}/history'%(i%1000)).raise_for_status()\n"
        "  print(2 * i, flush=True)\n"
    )
    return subprocess.Popen([*pin(0), sys.executable, "-c", script], stdout=subprocess.PIPE)


def stop_hammer(hammer: subprocess.Popen[bytes] | None) -> tuple[str, int]:
    """A problem when it had ended before or was never answered, and how many answers it got."""
    if hammer is None:
        return "", 0
    ended = hammer.poll()
    hammer.terminate()
    answers = hammer.communicate()[0].split()
    problem = f"the program that asks ended with {ended}" if ended is not None else "" if answers else "no query was answered"
    return problem, int(answers[-1]) if answers else 0


def stored_when_still(r: Rig) -> float:
    """Samples in history once the number no longer changes."""
    last = [-1.0, 0.0]

    def still() -> bool:
        now = stored(r)
        last[1] = last[1] + 1 if now == last[0] else 0
        last[0] = now
        return last[1] >= 20

    wait_until(still, "history goes on growing", 120)
    return last[0]


def bench_memory(*, seconds: float) -> list[Row]:
    """Resident memory of core at 10,000 devices x 10 points with 50 rules, 10 of them over windows, while data flow.

    The value is the most that was seen in ten looks, the reference what was seen after half of them: near each other is flat.
    """
    with rig() as r:
        r.start_service(write_site(r.directory / "site", site_config(devices=10_000, windows=10)))
        assert r.core is not None
        seen = []
        for _ in range(10):
            load(r, rate=5000, seconds=seconds / 10, devices=10_000)
            seen.append(rss_mb(r.core.pid))
    (BUILD / "core.rss.json").write_text(json.dumps(seen))
    return [row("core.rss_mb", max(seen), "MB", seen[4])]


def bench_packed(*, seconds: float) -> list[Row]:
    """CPU of core at 110 messages/s of 1,824 packed float32 values (200,000 values/s)."""
    with rig() as r:
        r.start_service(write_site(r.directory / "site", site_config(devices=110, members=MEMBERS)))
        assert r.core is not None
        before, began = cpu_seconds(r.core.pid), time.monotonic()
        command = [str(BUILD / "packed"), str(r.port), "bench", "spindle_rpm", str(MEMBERS), "110", str(seconds)]
        sent = run_json(command, timeout_s=seconds + 60)
        busy = (cpu_seconds(r.core.pid) - before) / (time.monotonic() - began)
        wanted = sent["sent"] * MEMBERS
        wait_until(lambda: r.metric('fieldloom_samples{fate="stored"}') >= wanted, "packed values are missing", 30)
        return [row("packed.core_share", busy, "cores"), row("packed.values_s", wanted / sent["seconds"], "1/s")]


def row(name: str, value: float | None, unit: str, reference: float | None = None, problem: str = "") -> Row:
    """One line of build/bench.json; a run whose numbers do not add up has no value but a problem."""
    ratio = value / reference if value is not None and reference else None
    made: Row = {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
    return made | ({"problem": problem} if problem else {})


def run(*, short: bool) -> list[Row]:
    """All end-to-end figures."""
    return [
        *bench_rate(seconds=20 if short else 300, rate=21_000),
        *bench_latency(runs=1 if short else 5, seconds=10 if short else 20),
        *bench_packed(seconds=10 if short else 30),
        *bench_memory(seconds=20 if short else 120),
    ]
