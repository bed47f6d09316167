# A static gripway in an image with nothing else. Settings come as flags or as
# GRIPWAY_… variables, for example:
#
#   docker run -p 7999:7999 -e GRIPWAY_ROUTE='* app:8000,over_http' gripway
FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY gateway gateway
COPY grip grip
COPY guest guest
COPY pubsub pubsub
COPY wsoverhttp wsoverhttp
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /gripway .

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /gripway /gripway
# Not root, by number: there is no /etc/passwd here.
USER 65534:65534
# Publishers are other containers; the port is not published unless asked.
ENV GRIPWAY_CONTROL_LISTEN=:5561
EXPOSE 7999 5561
ENTRYPOINT ["/gripway"]
CMD ["serve"]
