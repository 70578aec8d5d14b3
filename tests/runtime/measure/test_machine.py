import json
import os
import subprocess
import sys

import pytest

from convnet_edge.runtime.measure import machine


@pytest.fixture
def write(tmp_path):
    """Write texts by path into a folder that stands for the kernel's; return the folder."""

    def write_files(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write_files


def test_passport_is_plain_json_and_names_the_software():
    passport = json.loads(json.dumps(machine.passport(), allow_nan=False))
    assert passport["usable_cores"] >= 1
    assert passport["versions"]["numpy"]
    assert passport["system"]
    assert len(passport["id"]) == 16


def test_passport_names_an_arm_core(monkeypatch):
    info = {"CPU implementer": "0x41", "CPU part": "0xd08", "Features": "fp asimd"}
    monkeypatch.setattr(machine, "_key_values", lambda _: info)
    monkeypatch.setattr(machine, "_read", lambda _: None)  # no model in the device tree
    assert machine.passport()["cpu"] == "Cortex-A72"
    assert machine.passport()["isa"] == ["asimd"]


def test_passport_id_follows_the_machine_not_its_state(monkeypatch):
    before = machine.passport()["id"]
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "temperature_c", lambda: 80.0)
    assert machine.passport()["id"] == before
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    assert machine.passport()["id"] != before


def test_clock_and_temperature_are_the_highest_that_can_be_read(write):
    speeds, degrees = ("1500000", "600000", "nonsense"), ("45000", "", "47000")
    root = write({f"cpu{i}/cpufreq/scaling_cur_freq": text for i, text in enumerate(speeds)})
    write({f"thermal_zone{i}/temp": text for i, text in enumerate(degrees)})
    assert (machine.clock_mhz(root), machine.temperature_c(root)) == (1500, 47)
    absent = root / "absent"
    assert (machine.clock_mhz(absent), machine.temperature_c(absent)) == (None, None)


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
def test_container_is_known_by_its_traces(write, files, kind):
    assert machine.container(write(files)) == kind


def test_waiting_for_a_core_is_summed_over_threads(write):
    root = write({"1/schedstat": "100 70 3\n", "2/schedstat": "100 5 3\n"})
    assert machine.waited_ns(root) == 75
    assert machine.waited_ns(root / "absent") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.3, 1), (20.0, 8)])
def test_usable_cores_follow_affinity_and_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    assert machine.usable_cores() == cores


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
def test_cgroup_cores_reads_both_versions(write, files, cores):
    assert machine.cgroup_cores(write(files)) == cores


def test_gpu_names_come_from_the_kernels_driver(write):
    root = write({"0000:01:00.0/information": "Model: \t\t NVIDIA Test GPU\nModel: 1\n"})
    assert machine.gpu_names(root) == ["NVIDIA Test GPU"]
    assert machine.gpu_names(root / "absent") == []


def test_peak_memory_grows_with_use():
    code = (
        "from convnet_edge.runtime.measure import machine\n"
        "before = machine.peak_memory_bytes()\n"
        "block = b'x' * (256 << 20)\n"
        "print(machine.peak_memory_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) > 200 << 20
