package main

import "berth/oci/shim"

func main() { shim.Main(nil) }
