module spillway.dev/ingest

go 1.26.0
