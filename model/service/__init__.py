"""The model as an HTTP service with a web page. Needs the extra `serve` (FastAPI, uvicorn)."""
