package shimapi_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"berth/oci/shimapi"
)

// One call of a shim: a connection, a request and a response.
func ExampleDial() {
	c := shimapi.Dial(context.Background(), "/run/berth/shims/ID/"+shimapi.SocketName)
	defer c.Close()
	c.WriteRequest(shimapi.MethodStart, shimapi.IDRequest{ID: "0123abcd"})
	files, err := c.ReadResponse(nil) // also returns an error of the connecting and writing
	shimapi.CloseFiles(files)
	var refusal *shimapi.Error
	switch {
	case errors.As(err, &refusal):
		fmt.Println("the shim refuses:", refusal.Kind)
	case err != nil:
		log.Fatal(err)
	}
}
