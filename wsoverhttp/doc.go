// Package wsoverhttp carries a WebSocket as HTTP requests.
package wsoverhttp
