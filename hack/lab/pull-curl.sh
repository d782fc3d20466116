#!/usr/bin/env bash
# pull-curl.sh DIRECTORY MIRROR TAG: the manifest by its tag, then its blobs, sixteen at a time,
# each checked against its digest as soon as it is there.
set -euo pipefail
cd "$1"
url="$2/v2/library/app"
curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$url/manifests/$3?ns=docker.io" -o manifest
grep -o 'sha256:[0-9a-f]\{64\}' manifest | sort -u | while IFS=: read -r _ hex; do
  printf 'url = "%s/blobs/sha256:%s?ns=docker.io"\noutput = "%s"\n' "$url" "$hex" "$hex"
done >wanted
stdbuf -oL curl -sf --parallel --parallel-immediate --parallel-max 16 --config wanted \
  --write-out '%{filename_effective}  %{filename_effective}\n' | sha256sum --check --quiet --strict -
