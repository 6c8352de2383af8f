module spillway.dev/rollup

go 1.26.0
