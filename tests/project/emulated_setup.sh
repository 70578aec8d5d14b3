#!/usr/bin/env bash
# Fetch what tests/project/test_emulated.py runs: qemu, Debian's Python for arm64, and the locked wheels for
# it, all under .emulated. Needs an amd64 Debian and PYTHON with pip; installs nothing, needs no root.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
here=$PWD/.emulated
rm -rf "$here"
mkdir -p "$here"/apt/{lists,archives}/partial "$here"/system

# a state of its own: the machine's would have to be told of a second architecture
touch "$here/apt/status"
apt=(apt-get -qq -o APT::Architecture=amd64
  -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=
  -o Dir::State="$here/apt" -o Dir::State::status="$here/apt/status" -o Dir::Cache="$here/apt")
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only \
  qemu-user-static {python3-minimal,libpython3-stdlib,libstdc++6}:arm64
for package in "$here"/apt/archives/*_{arm64,all}.deb; do
  dpkg-deb --extract "$package" "$here/system"
done
dpkg-deb --fsys-tarfile "$here"/apt/archives/qemu-user-static_*.deb |
  tar --extract --directory "$here" --strip-components 3 \
    ./usr/bin/qemu-{x86_64,aarch64}-static
rm -r "$here/apt"

version=$(readlink "$here/system/usr/bin/python3")
awk '/^[a-z]/ { keep = /^(numpy|onnxruntime|pillow)==/ } keep' requirements.lock >"$here/wheels.txt"
"$python" -m pip --disable-pip-version-check install --quiet --root-user-action ignore \
  --no-deps --target "$here/site" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --only-binary :all: \
  --python-version "${version#python}" --require-hashes --requirement "$here/wheels.txt"
touch "$here/ready"
