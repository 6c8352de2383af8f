module spillway.dev/profileapi

go 1.26.0
