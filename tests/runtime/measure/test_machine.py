import json
import os
import subprocess
import sys

import pytest

from convnet_edge.runtime.measure import machine


def test_passport_is_plain_json_and_names_the_software():
    passport = json.loads(json.dumps(machine.passport(), allow_nan=False))
    assert passport["usable_cores"] >= 1
    assert passport["versions"]["numpy"]
    assert passport["system"]
    assert len(passport["id"]) == 16


def test_passport_id_follows_the_machine_not_its_state(monkeypatch):
    before = machine.passport()["id"]
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "temperature_c", lambda: 80.0)
    assert machine.passport()["id"] == before
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    assert machine.passport()["id"] != before


def test_clock_and_temperature_are_the_highest_that_can_be_read(tmp_path):
    for core, khz in ((0, "1500000"), (1, "600000"), (2, "nonsense")):
        file = tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq"
        file.parent.mkdir(parents=True)
        file.write_text(khz)
        zone = tmp_path / f"thermal_zone{core}" / "temp"
        zone.parent.mkdir()
        zone.write_text(str(45_000 + 1000 * core))
    assert machine.clock_mhz(tmp_path) == 1500
    assert machine.temperature_c(tmp_path) == 47
    assert machine.clock_mhz(tmp_path / "absent") is None
    assert machine.temperature_c(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"proc/1/cgroup": "0::/kubepods/besteffort/pod1"}, "kubepods"),
        ({"proc/1/cgroup": "0::/init.scope"}, None),
        ({}, None),
    ],
)
def test_container_is_known_by_its_traces(tmp_path, files, kind):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.container(tmp_path) == kind


def test_waiting_for_a_core_is_summed_over_threads(tmp_path):
    for thread, waited in ((1, 70), (2, 5)):
        (tmp_path / str(thread)).mkdir()
        (tmp_path / str(thread) / "schedstat").write_text(f"100 {waited} 3\n")
    assert machine.waited_ns(tmp_path) == 75
    assert machine.waited_ns(tmp_path / "absent") is None


def test_usable_cores_follow_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: None)
    assert machine.usable_cores() == 8
    monkeypatch.setattr(machine, "cgroup_cores", lambda: 2.5)
    assert machine.usable_cores() == 2
    monkeypatch.setattr(machine, "cgroup_cores", lambda: 0.3)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_cgroup_cores_reads_both_versions(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.cgroup_cores(tmp_path) == cores


def test_gpu_names_come_from_the_kernels_driver(tmp_path):
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    (folder / "information").write_text("Model: \t\t NVIDIA Test GPU\nIRQ:  1\n")
    assert machine.gpu_names(tmp_path) == ["NVIDIA Test GPU"]
    assert machine.gpu_names(tmp_path / "absent") == []


def test_peak_memory_grows_with_use():
    code = (
        "from convnet_edge.runtime.measure import machine\n"
        "before = machine.peak_memory_bytes()\n"
        "block = b'x' * (256 << 20)\n"
        "print(machine.peak_memory_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) > 200 << 20
