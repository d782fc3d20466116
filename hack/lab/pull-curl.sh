#!/usr/bin/env bash
# pull-curl.sh DIRECTORY MIRROR TAG: the manifest by its tag, then its blobs, eight at a time,
# each checked against its digest.
set -euo pipefail
url="$2/v2/library/app"
curl -sf -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$url/manifests/$3?ns=docker.io" -o "$1/manifest"
export url
fetch() {
  [ "sha256:$(curl -sf "$url/blobs/$1?ns=docker.io" | sha256sum | cut -d' ' -f1)" = "$1" ] ||
    { echo "$1 did not come whole" >&2; return 1; }
}
export -f fetch
grep -o 'sha256:[0-9a-f]\{64\}' "$1/manifest" | xargs -P 8 -I{} bash -c 'set -o pipefail; fetch {}'
