module spillway.dev/service

go 1.26.0
