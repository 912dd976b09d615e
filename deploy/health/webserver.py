"""Health of the webserver: does it answer on /server_info?"""

import sys
import urllib.request

try:
    with urllib.request.urlopen("http://127.0.0.1:3000/server_info", timeout=5) as answer:
        sys.exit(0 if answer.status == 200 else 1)
except OSError as error:
    sys.exit(f"the webserver does not answer: {error}")
