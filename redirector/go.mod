module spillway.dev/redirector

go 1.26.0
