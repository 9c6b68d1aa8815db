"""Fetches a URL by HTTP/3 alone with curl_cffi, libcurl as browsers build it, and writes the body to standard output.

Usage: http3_curl.py URL AUTHORITY [RANGE].
"""

import sys

from curl_cffi import CurlHttpVersion, requests

url, authority, wanted = (sys.argv + [""])[1:4]
headers = {"range": wanted} if wanted else {}
answer = requests.get(url, headers=headers, verify=authority, http_version=CurlHttpVersion.V3ONLY, timeout=60)
if answer.status_code not in (200, 206):
    sys.exit(f"status {answer.status_code}")
sys.stdout.buffer.write(answer.content)
