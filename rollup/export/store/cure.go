package store

import (
	"errors"
	"net"
	"strings"

	"github.com/aws/smithy-go"
)

// cure is what to do about an object store's error, to stand behind it, or empty.
func cure(err error) string {
	var refused smithy.APIError
	var network *net.OpError
	switch {
	case errors.As(err, &refused):
		switch refused.ErrorCode() {
		case "NoSuchBucket":
			return ": make the bucket, or correct its name in s3://BUCKET/PREFIX"
		case "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken":
			return ": check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or wherever else the AWS SDK finds credentials"
		case "AccessDenied":
			return ": let these credentials list the bucket, and get, put and delete its objects"
		case "AuthorizationHeaderMalformed", "PermanentRedirect":
			return ": add the bucket's region to its address, ?region=…"
		}
	case errors.As(err, &network):
		return ": check the address's ?endpoint=… and the network"
	case strings.Contains(err.Error(), "get credentials: "): // the SDK has no type for it
		return ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give credentials in another way that the AWS SDK knows"
	}
	return ""
}
