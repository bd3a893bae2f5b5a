// Package grpc stands for gRPC.
package grpc

type UnaryServerInfo struct{}
