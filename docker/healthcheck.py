#!/opt/flambeau/bin/python
"""Exit code 0 when the server in this container is ready for predictions, else 1."""

import os
import sys
import urllib.error
import urllib.request

URL = os.environ.get("FLAMBEAU_HEALTHCHECK_URL", "http://127.0.0.1:8080/readyz")

try:
    with urllib.request.urlopen(URL, timeout=4) as answer:  # noqa: S310 - the operator's own URL
        sys.exit(0 if answer.status == 200 else 1)
except (urllib.error.URLError, OSError) as error:
    print(f"not ready: {error}", file=sys.stderr)  # noqa: T201 - docker inspect shows it
    sys.exit(1)
