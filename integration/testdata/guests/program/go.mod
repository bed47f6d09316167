module github.com/gripway/gripway/integration/testdata/guests/program

go 1.24

require github.com/fastly/compute-sdk-go v1.8.1
