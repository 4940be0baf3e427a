package connect

import "errors"

var errStore = errors.New("the store does not answer")
