# The HTTP service with the shipped model. docs/service.md says how to build and run it.
FROM python:3.12-slim AS build
WORKDIR /src
COPY constraints.txt LICENSE README.md cli.py pyproject.toml ./
COPY model model
COPY pipeline pipeline
COPY stores stores
RUN python -m venv /opt/pinglm \
    && /opt/pinglm/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.12-slim
COPY --from=build /opt/pinglm /opt/pinglm
# All that is written goes to /tmp (compiled programs), so the rest may be read-only.
ENV PATH=/opt/pinglm/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["pinglm"]
CMD ["serve", "--host", "0.0.0.0"]
