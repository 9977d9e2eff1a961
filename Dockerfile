# The engine as one image. Name a database (JUDGIFY_DATABASE_URL), or mount a volume at /data for the embedded one.
FROM node:22-slim AS page
WORKDIR /build
COPY judgify_engine/live/web ./live/web
RUN cd live/web && npm ci --no-audit --no-fund && npm run build

FROM python:3.12-slim
RUN useradd --system --create-home --home-dir /data judgify
WORKDIR /app
COPY . .
COPY --from=page /build/live/static judgify_engine/live/static
RUN pip install --no-cache-dir --constraint constraints.txt '.[kubernetes]'
USER judgify
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"
ENTRYPOINT ["judgify-engine"]
CMD ["serve", "--host", "0.0.0.0", "--data-dir", "/data/judgify"]
