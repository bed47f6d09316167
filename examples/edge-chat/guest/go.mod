module github.com/gripway/gripway/examples/edge-chat/guest

go 1.26.0

require (
	github.com/fastly/compute-sdk-go v1.8.1
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/gripway/gripway v0.0.0
)

replace github.com/gripway/gripway => ../../..
