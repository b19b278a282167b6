# Every process of the Director: "serve" by default, or another command. See docs/containers.md.

# The Python for which requirements.txt is pinned, and that the tests use.
FROM python:3.11-slim-trixie AS build
# More packages: "[s3]" for files in a bucket, "[oidc]", "[editor]"; several as "[s3,oidc]".
ARG EXTRAS=""
RUN python -m venv --without-pip /opt/director
WORKDIR /source
# A change of the source alone does not install the packages again.
COPY requirements.txt ./
RUN pip --python /opt/director/bin/python install --no-cache-dir --requirement requirements.txt
COPY . .
RUN pip --python /opt/director/bin/python install --no-cache-dir --constraint requirements-dev.txt ".$EXTRAS"

FROM python:3.11-slim-trixie
# For posters and facts of videos. Empty: the image is half as large, and videos have none.
ARG FFMPEG="ffmpeg"
# Debian's mirrors have only the newest version of a package, so that none is pinned.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && apt-get install --yes --no-install-recommends $FFMPEG \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --uid 10001 --home-dir /data --shell /usr/sbin/nologin director \
    && install --directory --mode=700 --owner=director --group=director /data /data/files
COPY --from=build /opt/director /opt/director
# A container has no ComfyUI on its own ports to discover.
ENV PATH=/opt/director/bin:$PATH \
    DIRECTOR_DATA_DIR=/data \
    DIRECTOR_DISCOVER=0
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 9820
HEALTHCHECK --start-period=60s --timeout=5s CMD ["python", "-c", \
    "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 9820, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["director"]
# Beyond loopback serve needs DIRECTOR_TOKEN: without it the container ends with an error that says so.
CMD ["serve", "--host", "0.0.0.0"]
