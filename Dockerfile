# The page and the HTTP API in a container. Built without a network, from wheels: see docs/web.md.
FROM python:3.12-slim

RUN --mount=type=bind,source=dist,target=/dist \
    pip install --no-cache-dir --no-index --find-links /dist 'facemsm[serve]'

# a plain user, of no name, so that the image needs no tool to make one
USER 10001:10001
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["facemsm", "serve", "--host", "0.0.0.0"]
